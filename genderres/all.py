"Everything a notebook needs: `from genderres.all import *`"
from fastai.vision.all import *
from .portraits import *
from .photos import *
from .duplicates import near_pairs, thumbnail
from .check import *
from .split import *
from .data import *
from .networks import *
from .learner import *
from .precision import *
from .features import *
from .cache import *
from .stats import *
from .interpret import *
from .report import *
from .calibrate import *
from .groups import *
from .explain import *
from .review import *
from .predict import *
from .classifier import *
from .evaluate import *
from .export import *
from .experiment import *
from .datasets import *
