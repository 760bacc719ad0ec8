"Calibration: awkward photos, awkward numbers, and what ends up in the file"
import shutil
import numpy as np, pandas as pd, pytest, torch
from fastai.vision.all import resnet18, set_seed, tensor
from genderres.calibrate import (_content_ids, choose_threshold, fit_temperature, photos_needed, reliability,
                                 risk_coverage, tempered)
from genderres.classifier import GenderClassifier
from genderres.evaluate import evaluate
from genderres.data import gender_dls
from genderres.interpret import GenderInterpretation
from genderres.learner import gender_learner
from genderres.portraits import sample_portraits
from scipy.stats import binom

@pytest.fixture(scope='module')
def interp(tmp_path_factory):
    "An untrained network's answers on drawn portraits, in three parts"
    set_seed(0)
    path = sample_portraits(tmp_path_factory.mktemp('calibrate')/'photos', n=60, size=64)
    learn = gender_learner(gender_dls(path, size=32, bs=8, num_workers=0, valid_pct=.3, test_pct=.3),
                           resnet18, weights=None)
    with learn.no_bar(): return GenderInterpretation.from_learner(learn)

def with_preds(interp, preds, targs=None):
    preds = tensor(preds)
    return GenderInterpretation(interp.learn, interp.dl, interp.losses, interp.act, preds,
                                interp.targs if targs is None else targs)

def test_certain_everywhere(interp):
    "Probabilities of exactly 0 and 1, right and wrong, and all alike"
    for wrong in (0, 1, len(interp.targs)):
        preds = np.eye(2, dtype=np.float32)[np.r_[1 - interp.targs[:wrong].numpy(), interp.targs[wrong:].numpy()]]
        cal = with_preds(interp, preds).calibrate()
        assert (.05 <= cal.temperature <= 100
                and torch.isfinite(cal.after.preds).all() and torch.isfinite(cal.after.losses).all())
        assert np.isfinite(pd.DataFrame({k: cal.facts()[k] for k in ('before', 'after')})).all(axis=None)
        assert (cal.after.decoded == with_preds(interp, preds).decoded).all()
    half = with_preds(interp, np.full((len(interp.targs), 2), .5, np.float32))
    assert len(risk_coverage(np.full(9, .5), np.ones(9, bool))) == 1
    half.calibrate().after.plot_reliability(); half.plot_risk_coverage()

def test_one_class_or_none_or_no_number(interp):
    with pytest.raises(ValueError, match='filed as women'):
        with_preds(interp, interp.preds, torch.zeros_like(interp.targs)).calibrate()
    with pytest.raises(ValueError, match='no photos'): fit_temperature(np.zeros((0, 2)), [])
    with pytest.raises(ValueError, match='diverged'): with_preds(interp, interp.preds*np.nan).calibrate()
    for bad in (0, 1, -1, 7, np.nan):
        with pytest.raises(ValueError, match='between 0 and 1'): choose_threshold([.9], [True], bad)
    with pytest.raises(ValueError, match='too few'): choose_threshold([], [], .5)

def test_answers_of_several_networks(interp):
    "Cross-validation has no learner: no check for training photos, but the photos fitted on are still kept apart"
    crossed = GenderInterpretation.from_answers(interp.preds, interp.targs, interp.dl.items, interp.vocab)
    cal = crossed.calibrate()
    assert np.isclose(cal.temperature, interp.calibrate().temperature) and cal.facts()['photos'] == len(interp.targs)
    with pytest.raises(ValueError, match='were calibrated on'): cal.apply(interp)
    with interp.learn.no_bar(): train = GenderInterpretation.from_learner(interp.learn, 0)
    with pytest.raises(ValueError, match='were trained on'): train.calibrate()
    assert cal.apply(train).learn is interp.learn

def test_very_small_probabilities_keep_their_logits():
    "The floor of the log loss does not bend what a temperature makes of them"
    probs = 1/(1 + np.exp([[20., -20.]]))
    assert np.allclose(tempered(probs, 4), 1/(1 + np.exp([[5., -5.]])), rtol=1e-6)

def test_a_renamed_copy_is_still_the_same_photo(interp, tmp_path):
    cal = interp.calibrate()
    copies = interp.dl.items[['file', 'label']].copy()
    copies['file'] = [str(shutil.copy(o, tmp_path/f'new {i}.png')) for i,o in enumerate(copies['file'])]
    other = GenderInterpretation(interp.learn, interp.learn.dls.test_dl(copies, with_labels=True),
                                 interp.losses, None, interp.preds, interp.targs)
    with pytest.raises(ValueError, match=r'were calibrated on: .*new 0\.png'): cal.apply(other)
    with interp.learn.no_bar(): assert len(cal.apply(GenderInterpretation.from_learner(interp.learn, 2)).targs)

@pytest.mark.parametrize('n', [1, 2, 9, 11])
def test_few_photos(n):
    rel = reliability(np.linspace(.5, 1, n), np.arange(n) % 2 == 0)
    assert rel.photos.sum() == n and len(rel) <= 10 and rel.notna().all(axis=None)

@pytest.mark.parametrize('errors,risk', [(0, .01), (3, .01), (0, .5), (20, .001)])
def test_needed_is_the_fewest(errors, risk):
    n = photos_needed(errors, risk)   # with a risk of `risk`, this few errors are seen in at most 5 of 100 cases
    assert binom.cdf(errors, n, risk) <= .05 < binom.cdf(errors, n - 1, risk)

def test_ties_of_coarse_probabilities(interp):
    "bfloat16 makes a few hundred photos equally sure: the threshold takes all of them or none"
    rng = np.random.default_rng(0)
    sure = torch.tensor(rng.uniform(.5, 1, 2000)).bfloat16().double().numpy()
    right = rng.random(2000) < sure
    chosen = choose_threshold(sure, right, .2)
    assert (sure >= chosen.threshold).sum() == chosen.answered and len(np.unique(sure)) < 200

def test_the_file_keeps_it(interp, tmp_path):
    cal = with_preds(interp, interp.preds).calibrate()
    clf = interp.learn.to_classifier(calibration=cal)
    back = GenderClassifier.load(clf.save(tmp_path/'a.safetensors'))
    assert (back.facts['temperature'] == cal.temperature and back.facts['abstain'] == 0
            and back.facts['trained']['calibration']['photos'] == len(interp.targs))
    files = interp.dl.items['file'].tolist()
    assert np.abs(back.predict(files)[back.vocab].values - cal.after.preds.numpy()).max() < 1e-3
    parts = interp.learn.dls.photos[['file', 'label', 'split']]
    assert set(evaluate(back, parts).problem) == {''}   # the test photos
    with pytest.raises(ValueError, match='trained or calibrated on'): evaluate(back, parts, part='valid')
    assert interp.learn.to_classifier(calibration=cal, abstain=.7).facts['abstain'] == .7
    cal.chosen = pd.Series(dict(threshold=.6, coverage=1., answered=9., errors=0.)); cal.risk = .5
    assert interp.learn.to_classifier(calibration=cal).facts['abstain'] == .6

def test_an_old_calibration_is_noticed(interp):
    cal = with_preds(interp, interp.preds.flip(1)).calibrate()
    with pytest.raises(ValueError, match='after its answers were kept'):
        interp.learn.to_classifier(interp, calibration=cal)

def test_a_column_id_of_ones_own(interp):
    "Numbers of records are no content: the files are read"
    own = GenderInterpretation.from_answers(interp.preds, interp.targs, interp.dl.items.copy(), interp.vocab)
    want = own.dl.items['id'].tolist()
    own.dl.items['id'] = range(len(want))
    assert _content_ids(own) == want
