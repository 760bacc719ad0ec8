"Everything a notebook needs: `from genderres.all import *`; helpers stay in their modules"
from fastai.vision.all import *
from .portraits import draw_crowd, draw_portrait, sample_portraits
from .photos import match_classes, photos_from_df, photos_from_folder, photos_from_func, photos_from_source, presented, unit_of
from .duplicates import near_pairs, thumbnail
from .check import check_images, check_summary
from .split import save_split, split_photos
from .faces import crop_face, find_faces
from .data import CropOrWhole, PILPhoto, gender_block, gender_dls
from .networks import lite0, plain34
from .learner import GenderLearner, gender_learner
from .precision import Autocast, fastest_precision
from .features import GrowSize
from .cache import cache_photos, clear_cache
from .stats import effective_n, score_table, summary, wilson
from .interpret import GenderInterpretation
from .report import Report
from .calibrate import Calibration, choose_threshold, fit_temperature, reliability, risk_coverage
from .groups import group_report, group_table, plot_groups
from .explain import grad_cam, shortcuts
from .review import review_labels, save_review, show_review
from .clean import Cleaner, review_widget
from .page import answer_sections, check_sections, write_page
from .predict import OnnxClassifier, predict_to_file
from .classifier import GenderClassifier
from .evaluate import evaluate
from .export import compare
from .sort import predict_sorted, sort_photos
from .audit import Audit, audit
from .count import PeopleCount, count_people, draw_people, estimate_counts
from .video import VideoCount, Walk, count_video, draw_clip
from .scale import count_dataset, list_photos, predict_dataset
from .check_scale import check_dataset
from .experiment import cross_validate, demo, run_experiment, save_results
from .datasets import congress_portraits, kaggle_photos
