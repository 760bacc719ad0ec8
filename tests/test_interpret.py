"The report, the comparison and the groups on answers that are hard to judge"
import sys, warnings
import numpy as np, pandas as pd, pytest, torch
import sklearn.metrics as skm
from fastai.data.transforms import CategoryMap
from fastai.vision.all import resnet18
from genderres.photos import photos_from_folder
from genderres.experiment import cross_validate
from genderres.groups import plot_groups
from genderres.interpret import GenderInterpretation
from genderres.stats import ece_interval, effective_n, probability_scores, resample, wilson
from genderres.learner import gender_learner

class Photos:
    "Stands in for a `DataLoader`"
    def __init__(self, vocab, items): self.vocab, self.items = CategoryMap(vocab, sort=False), items

def answers(probs, targs, vocab=('men', 'women'), **columns):
    "An interpretation of photos that do not exist"
    probs, targs = torch.tensor(np.asarray(probs, np.float32)), torch.tensor(targs).long()
    items = pd.DataFrame(dict(file=[f'{i:05}.jpg' for i in range(len(targs))], **columns))
    return GenderInterpretation(None, Photos(vocab, items), -probs[range(len(targs)), targs].log(), None, probs, targs)

def binary(rng, n, right=.9, p=.9):
    targs = rng.integers(0, 2, n)
    said = np.where(rng.random(n) < right, targs, 1 - targs)
    return np.eye(2)[said]*(2*p - 1) + 1 - p, targs

@pytest.fixture
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        yield

@pytest.fixture
def rng(): return np.random.default_rng(0)

def test_one_class(quiet, rng):
    probs, _ = binary(rng, 50)
    rep = answers(probs, np.zeros(50, int)).report()
    assert np.isnan(rep.table.loc[['AUROC', 'balanced accuracy', 'recall women'], 'value']).all()
    assert np.isfinite(rep.table.loc[['log loss', 'Brier score', 'calibration error'], ['value', 'low', 'high']].astype(float)).values.all()
    assert 'No photo of women' in str(rep) and 'undefined' in str(rep) and 'always' not in ' '.join(rep.notes)

def test_an_absent_class_of_three(quiet, rng):
    probs = rng.dirichlet([1, 1, 1], 60)
    rep = answers(probs, rng.integers(0, 2, 60), 'abc').report()
    assert np.isnan(rep.table.value['AUROC']) and 'No photo of c' in str(rep)

@pytest.mark.parametrize('n', [1, 2, 9])
def test_fewer_photos_than_bins(quiet, rng, n):
    rep = answers(*binary(rng, n)).report()
    assert 'Fewer photos than the 15 bins' in str(rep)
    t = rep.table.loc['accuracy']
    assert 0 <= t.low <= t.value <= t.high <= 1

def test_no_photos_and_no_probabilities():
    with pytest.raises(ValueError, match='no photos to report on'): answers(np.zeros((0, 2)), []).report()
    for bad in ([[3., -2]], [[np.nan, np.nan]], [[.2, .2]]):
        with pytest.raises(ValueError, match='no probabilities'): answers(bad, [0]).report()

def test_certain_and_wrong(quiet):
    "Probabilities of exactly 0 and 1: as scikit-learn, finite, and said"
    probs, targs = np.float32(np.eye(2)[[0, 1, 0, 1]]), np.array([0, 1, 0, 0])
    rep = answers(probs, targs).report()
    assert np.isclose(rep.table.value['log loss'], skm.log_loss(targs, probs), rtol=1e-5)
    assert 'exactly 0: 1' in str(rep)
    sure = answers(np.eye(2)[[0, 1]*20], [0, 1]*20).report()
    assert sure.table.value['log loss'] == 0 and sure.table.value['AUROC'] == 1 and 'AUROC is perfect' in str(sure)
    assert sure.table.low['balanced accuracy'] < .95 and sure.table.low['F1 men'] < .95   # no interval of nothing

def test_one_group_only(quiet, rng):
    rep = answers(*binary(rng, 40), group=['Ann']*40).report()
    assert np.isnan(rep.table.low['log loss']) and 'one group' in str(rep)
    assert rep.table.high['accuracy'] - rep.table.low['accuracy'] > .7   # one observation

def test_ties_and_weights(rng):
    "AUROC with many ties is scikit-learn's"
    p = rng.integers(0, 5, 200)/10 + .2
    t = rng.integers(0, 2, 200)
    w = rng.integers(0, 4, 200).astype(float)
    assert np.isclose(probability_scores(np.c_[1-p, p], t)(w)[0], skm.roc_auc_score(t, p, sample_weight=w))

def test_names_that_are_markup(rng):
    assert '<b>' not in answers(*binary(rng, 20), vocab=('<b>', 'b')).report()._repr_html_()

def test_intervals_hold_what_they_promise(rng):
    "Photos in groups that share their fate: accuracy and log loss lie in their intervals about 95 times in 100, and would not if photos were taken one by one"
    hit = dict(groups=0, loss=0, photos=0)
    for i in range(100):
        person = np.repeat(np.arange(60), rng.integers(1, 12, 60))
        easy = rng.random(60)
        right = rng.random(len(person)) < np.where(easy < .2, .3, .95)[person]
        mean = .2*.3 + .8*.95
        _, low, high = wilson(right.sum(), len(right), effective_n(right, person))
        hit['groups'] += low <= mean <= high
        _, low, high = wilson(right.sum(), len(right))
        hit['photos'] += low <= mean <= high
        low, high = np.quantile(resample(lambda w: w @ right/w.sum(), person, 200), [.025, .975])
        hit['loss'] += low <= mean <= high
    assert hit['groups'] >= 89 and hit['loss'] >= 85 and hit['photos'] < 80, hit

def test_calibration_error_of_a_calibrated_network_may_be_zero(rng):
    hit = 0
    for i in range(40):
        p = 1/(1 + np.exp(-1.5*rng.normal(size=400)))
        probs, t = np.c_[1-p, p], (rng.random(400) < p).astype(int)
        stat = probability_scores(probs, t)
        hit += ece_interval(probs, stat(np.ones(400))[3], resample(stat, np.arange(400), 200)[:,3], np.arange(400))[0] == 0
    assert hit >= 34

def test_compare_holds_what_it_promises(rng):
    "The interval for the difference of two networks, and how often equal ones are told apart"
    covered = told = 0
    for i in range(200):
        targs, hard = rng.integers(0, 2, 120), rng.random(120) < .2
        a, b = (np.where(rng.random(120) < np.where(hard, .5, .97), targs, 1 - targs) for _ in range(2))
        res = answers(np.eye(2)[a], targs).compare(answers(np.eye(2)[b], targs))
        covered += res['low'] <= 0 <= res['high']
        told += res['p'] < .05
    assert covered >= 182 and told <= 16

def test_compare_by_group(quiet, rng):
    "Twenty photos of one person are one throw of the coin"
    targs = np.zeros(40, int)
    a, b = np.zeros(40, int), np.r_[np.ones(20, int), np.zeros(20, int)]
    one_by_one = answers(np.eye(2)[a], targs).compare(answers(np.eye(2)[b], targs))
    people = answers(np.eye(2)[a], targs, group=['Ann']*20 + [f'p{i}' for i in range(20)]).compare(answers(np.eye(2)[b], targs))
    assert one_by_one['p'] < 1e-5 and people['p'] == 1 and people['low'] < one_by_one['low']
    same = answers(np.eye(2)[a], targs)
    res = same.compare(same)
    assert res['p'] == 1 and res['low'] < 0 < res['high']

def test_compare_in_any_order(rng):
    probs, targs = binary(rng, 60)
    a, b = answers(probs, targs), answers(binary(rng, 60)[0], targs)
    order = rng.permutation(60)
    mixed = GenderInterpretation(None, Photos(('men', 'women'), b.dl.items.iloc[order]), b.losses[order], None, b.preds[order], b.targs[order])
    assert a.compare(b) == a.compare(mixed)

def test_by_group_is_named_extra(rng, monkeypatch):
    monkeypatch.setitem(sys.modules, 'fairlearn.metrics', None)
    with pytest.raises(ImportError, match=r"pip install 'genderres\[fairness\]'"): answers(*binary(rng, 20)).by_group(['a', 'b']*10)

def test_odd_groups(quiet, rng):
    "Missing values, a group of one, one group, a class that a group has not got"
    interp = answers(*binary(rng, 100))
    values = ['a']*60 + ['']*3 + [None]*3 + [np.nan]*3 + ['b']*30 + ['alone']
    rep = interp.by_group(values)
    acc = rep.table[rep.table.score == 'accuracy'].set_index('group')
    assert acc.n.to_dict() == dict(a=60, alone=1, b=30, missing=9) and acc.finding['alone'] == 'too few to tell'
    assert (rep.table.finding == 'no photo').sum() == 1 and acc.index[-1] == 'missing'
    lone = interp.by_group(['a']*100)
    assert np.isnan(lone.table.p).all() and 'nothing to compare' in str(lone)
    by_class = answers(*binary(rng, 100)).by_group(np.array(['x', 'y'])[interp.targs])
    assert len(by_class.table) == 6
    assert interp.by_group(list(range(20))*5).table.group[:3].tolist() == ['0', '1', '2']   # numbers in their order
    plot_groups(rep.table)

def test_photos_of_one_person_do_not_make_a_group_worse(rng):
    "Forty wrong photos of one person flag nobody; of forty persons they do"
    right = np.r_[np.zeros(40, bool), rng.random(460) < .9]
    targs = rng.integers(0, 2, 500)
    probs = np.eye(2)[np.where(right, targs, 1 - targs)]
    values = ['old']*60 + ['new']*440
    alone, many = ([f'p{i}' for i in o] for o in (np.r_[np.zeros(40, int), np.arange(40, 500)], range(500)))
    flags = [answers(probs, targs, group=o).by_group(values).table.query("score == 'accuracy' and group == 'old'").finding.item() for o in (alone, many)]
    assert flags[1] == 'worse than the rest' and flags[0] != 'worse than the rest'

def test_cross_validation_keeps_groups_and_options(photos, monkeypatch):
    seen = []
    def fake(dls, seed, **kwargs):
        table = dls.photos
        assert not set(table.group[table.split == 'train']) & set(table.group[table.split == 'valid'])
        seen.extend(table.file[table.split == 'valid'])
        assert dls.valid.bs == 8 and kwargs == dict(weights='portrait')
        learn = gender_learner(dls, resnet18, weights=None)
        items = dls.valid_ds.items
        targs = torch.tensor([dls.vocab.o2i[o] for o in items['label']])
        return GenderInterpretation(learn, dls.valid, torch.zeros(len(items)), None, torch.full((len(items), 2), .5), targs)
    monkeypatch.setattr('genderres.experiment.run_experiment', fake)
    table = photos_from_folder(photos)[['file', 'label']].assign(who=[f'p{i//2}' for i in range(20)], split=['train']*16 + ['test']*4)
    folds, every = cross_validate(table, 3, data=dict(group_col='who', valid_pct=.3, size=32, bs=8, num_workers=0), weights='portrait')
    assert sorted(seen) == sorted(table.file[:16]) and folds.photos['all'] == 16 and folds.accuracy['all'] == (every.targs == 0).float().mean().item()
    for k in (1, 9):
        with pytest.raises(ValueError, match=f'k={k}: from 2 to'): cross_validate(table, k, data=dict(group_col='who', size=32, bs=8, num_workers=0))
