"The report, the comparison and the groups on answers that are hard to judge"
import sys, warnings
import numpy as np, pandas as pd, pytest, torch
import sklearn.metrics as skm
from fastai.vision.all import resnet18
from scipy.stats import binomtest
from genderres.calibrate import calibration_scores
from genderres.experiment import cross_validate
from genderres.groups import plot_groups
from genderres.interpret import GenderInterpretation
from genderres.photos import photos_from_folder
from genderres.stats import (calibration_error, ece_by_chance, ece_interval, effective_n, log_losses,
                             probability_scores, resample, simulate_answers, wilson)
from genderres.learner import gender_learner

def answers(probs, targs, vocab=('men', 'women'), **columns):
    "An interpretation of photos that do not exist"
    items = pd.DataFrame(dict(file=[f'{i:05}.jpg' for i in range(len(targs))], **columns))
    return GenderInterpretation.from_answers(np.asarray(probs, np.float32), targs, items, vocab)

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
    assert np.isfinite(rep.table.loc[['log loss', 'Brier score', 'calibration error'],
                                     ['value', 'low', 'high']].astype(float)).values.all()
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
    """Photos in groups that share their fate: accuracy and log loss lie in their intervals about 95 times in 100,
    and would not if photos were taken one by one"""
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
    hit, alone = 0, np.arange(400)
    for i in range(40):
        probs, t = simulate_answers(400, seed=i)
        stat = probability_scores(probs, t)
        hit += ece_interval(stat(np.ones(400))[3], resample(stat, alone, 200)[:,3],
                            ece_by_chance(probs.max(1), alone))[0] == 0
    assert hit >= 34

@pytest.mark.parametrize('group', [None, np.arange(400)//4])
@pytest.mark.parametrize('scale', [1, 3])
def test_one_log_loss_and_one_calibration_error(group, scale):
    "The report and the calibration say the same about the same answers, certain and wrong ones among them"
    probs, targs = simulate_answers(400, scale=scale)
    probs[0] = np.eye(2)[1 - targs[0]]   # certain and wrong
    interp = answers(probs, targs, **({} if group is None else dict(group=group.astype(str))))
    rep, scores = interp.report(), calibration_scores(interp.preds, interp.targs, interp.group)
    assert np.allclose(rep.table.value[['log loss', 'calibration error']].astype(float),
                       scores[['loss', 'calibration error']], atol=1e-12)
    assert (np.isclose(scores['loss'], skm.log_loss(targs, np.float32(probs)))
            and np.isclose(scores['largest loss'], -np.log(np.finfo(np.float32).eps)))
    assert np.isclose(log_losses(interp.preds, targs).mean(), scores['loss'])
    noted = f"calibration error of up to {scores['by chance']:.3f} here by chance" in str(rep)
    assert noted == (scores['calibration error'] <= scores['by chance']) == (scale == 1)
    assert noted == (rep.table.low['calibration error'] == 0)

def test_chance_is_drawn_by_group():
    probs, targs = simulate_answers(400)
    alone, people = (calibration_scores(probs, targs, o)['by chance'] for o in (None, np.arange(400)//20))
    assert people > 1.5*alone

def test_calibration_error_by_hand(rng):
    probs, targs = simulate_answers(300, 3)
    sure, right = probs.max(1), probs.argmax(1) == targs
    edges = np.arange(16)/15
    parts = [(edges[i] <= sure) & (sure < edges[i+1]) for i in range(15)]
    by_hand = sum(abs(sure[o].mean() - right[o].mean())*o.mean() for o in parts if o.any())
    assert np.isclose(calibration_error(sure, right), by_hand)

def test_wilson_of_a_fractional_number():
    assert np.allclose(wilson(90, 100, effective=33.7), (.9, .755, .963), atol=5e-4)
    assert np.allclose(wilson(588, 657), (.895, .869, .916), atol=5e-4)
    for right,n in ((0, 1), (0, 30), (30, 30), (1, 2)):
        share, low, high = wilson(right, n, n/3)
        assert 0 <= low <= share <= high <= 1
        assert np.allclose(wilson(right, n)[1:], binomtest(right, n).proportion_ci(method='wilson'))

def test_without_a_learner(tmp_path, photos, quiet, rng):
    "Answers of several networks: everything works but running a network, which is refused"
    table = photos_from_folder(photos)
    probs, targs = binary(rng, len(table), .5)
    interp = GenderInterpretation.from_answers(probs, targs, table, ['men', 'women'])
    assert (interp.learn is None and [*interp.vocab] == ['men', 'women']
            and interp.dl.items.file.tolist() == table.file.tolist())
    bare = GenderInterpretation(None, interp.dl, interp.losses, None, interp.preds, interp.targs)
    for o in (interp, bare):
        o.report(); o.compare(interp); o.to_df(); o.scores(); o.print_classification_report()
        o.plot_confusion_matrix(); o.plot_top_losses(4); o.plot_reliability(); o.plot_risk_coverage()
        assert o.most_confused() == interp.most_confused() and len(o.by_group(['a', 'b']*10).table) == 6
        # drawn at random
        with pytest.warns(UserWarning, match='ends at its limit of 100'): assert o.calibrate().temperature > 99
        for run in (lambda: o[0], lambda: o.show_results([0])):
            with pytest.raises(ValueError, match='no learner'): run()
    with pytest.raises(ValueError, match='give one each'):
        GenderInterpretation.from_answers(probs, targs, table[1:], ['men', 'women'])

def test_beside():
    rep = answers(*simulate_answers(50)).report(beside={'the paper': (588, 657)})
    assert rep.table.n['the paper'] == 657 and np.isclose(rep.table.low['the paper'], .869, atol=5e-4)
    assert 'the paper' not in answers(*simulate_answers(50)).report().table.index

def test_top_losses_honours_figsize(photos):
    table = photos_from_folder(photos)
    interp = GenderInterpretation.from_answers(*simulate_answers(len(table)), table, ['men', 'women'])
    fig = interp.plot_top_losses(5, ncols=5, figsize=(9, 2))
    assert [*fig.get_size_inches()] == [9, 2] and len([o for o in fig.axes if o.images]) == 5
    assert len([o for o in interp.plot_top_losses(100).axes if o.images]) == len(table)

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
    people = answers(np.eye(2)[a], targs, group=['Ann']*20 + [f'p{i}' for i in range(20)]).compare(
        answers(np.eye(2)[b], targs))
    assert one_by_one['p'] < 1e-5 and people['p'] == 1 and people['low'] < one_by_one['low']
    same = answers(np.eye(2)[a], targs)
    res = same.compare(same)
    assert res['p'] == 1 and res['low'] < 0 < res['high']

def test_compare_in_any_order(rng):
    probs, targs = binary(rng, 60)
    a, b = answers(probs, targs), answers(binary(rng, 60)[0], targs)
    order = rng.permutation(60)
    mixed = GenderInterpretation.from_answers(b.preds[order], b.targs[order], b.dl.items.iloc[order], ['men', 'women'])
    assert a.compare(b) == a.compare(mixed)

def test_by_group_is_named_extra(rng, monkeypatch):
    monkeypatch.setitem(sys.modules, 'fairlearn.metrics', None)
    with pytest.raises(ImportError, match=r"pip install 'genderres\[fairness\]'"):
        answers(*binary(rng, 20)).by_group(['a', 'b']*10)

def test_odd_groups(quiet, rng):
    "Missing values, a group of one, one group, a class without photos in a group"
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
    flags = [answers(probs, targs, group=o).by_group(values).table.query(
        "score == 'accuracy' and group == 'old'").finding.item() for o in (alone, many)]
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
        return GenderInterpretation(learn, dls.valid, torch.zeros(len(items)), None,
                                    torch.full((len(items), 2), .5), targs)
    monkeypatch.setattr('genderres.experiment.run_experiment', fake)
    table = photos_from_folder(photos)[['file', 'label']].assign(
        who=[f'p{i//2}' for i in range(20)], split=['train']*16 + ['test']*4)
    folds, every = cross_validate(table, 3, data=dict(group_col='who', valid_pct=.3, size=32, bs=8, num_workers=0,
                                                       classes=dict(men='Herren', women='Damen')),
                                  weights='portrait')
    assert (sorted(seen) == sorted(table.file[:16]) and folds.photos['all'] == 16
            and folds.accuracy['all'] == (every.targs == 0).float().mean().item())
    for k in (1, 9):
        with pytest.raises(ValueError, match=f'k={k}: from 2 to'):
            cross_validate(table, k, data=dict(group_col='who', size=32, bs=8, num_workers=0))
