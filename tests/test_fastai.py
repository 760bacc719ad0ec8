"""What fastai's `DataLoaders` and `Learner` take, these take: photos in hand, callbacks, metrics, losses, export;
with `to_rapid`, too"""
import io, pickle, random, shutil, sys
from collections import namedtuple
from pathlib import Path
from contextlib import contextmanager
import numpy as np, pandas as pd, pytest, torch
from fastai.vision.all import (
    BalancedAccuracy, Callback, CohenKappa, CSVLogger, CutMix, EarlyStoppingCallback, F, F1Score, FetchPredsCallback,
    FocalLoss, FocalLossFlat, GradientAccumulation, GradientClip, L, LabelSmoothingCrossEntropy,
    LabelSmoothingCrossEntropyFlat, MatthewsCorrCoef, MixedPrecision, MixUp, Perplexity, PILImage, Precision, Recall,
    ReduceLROnPlateau, RocAucBinary, SaveModelCallback, ShortEpochCallback, TensorImage, TerminateOnNaNCallback,
    accuracy, error_rate, first, get_image_files, image2tensor, load_learner, nn, noop, resnet18, set_seed, tensor)
from PIL import Image
from genderres import features
from genderres.cache import PhotoCache
from genderres.data import PILPhoto, gender_block, gender_dls
from genderres.files import write_tables
from genderres.interpret import GenderInterpretation
from genderres.learner import gender_learner
from genderres.portraits import sample_portraits
from genderres.predict import predict_to_file
from genderres.reader import PhotoProblem

@pytest.fixture(scope='module')
def portraits(tmp_path_factory): return sample_portraits(tmp_path_factory.mktemp('portraits')/'p', n=24, size=32)

@pytest.fixture(scope='module')
def make(portraits, weights, tmp_path_factory):
    "A learner with a frozen body that prints nothing"
    def make(rapid=False, **kwargs):
        set_seed(1)
        dls = gender_dls(portraits, size=32, bs=8, num_workers=0)
        dls.path = tmp_path_factory.mktemp('models')
        learn = gender_learner(dls, resnet18, weights, **kwargs)
        if rapid: learn.to_rapid(dtype=torch.float32)
        learn.remove_cbs([learn.progress])
        learn.logger = noop
        return learn
    return make

@pytest.fixture(scope='module', params=[False, True], ids=['plain', 'rapid'])
def learn(request, make):
    learn = make(request.param)
    learn.fit(1)
    return learn

def forms(file):
    "A photo in every form in which an application may hold it"
    data, im = file.read_bytes(), Image.open(file)
    return [str(file), file, data, bytearray(data), io.BytesIO(data), file.open('rb'), im, PILImage.create(file),
            np.asarray(im), tensor(np.array(im)), TensorImage(image2tensor(im)), pd.Series(dict(file=str(file))),
            pd.Series(dict(photo=str(file), age=3))]

def test_predict_takes_a_photo_in_any_form(learn):
    want, file = learn.get_preds()[0], Path(learn.dls.valid_ds.items.file.iloc[0])
    for o in forms(file):
        label, index, probs = learn.predict(o)
        assert ((label, index) == (learn.dls.vocab[want[0].argmax()], want[0].argmax())
                and torch.allclose(probs, want[0], atol=1e-6)), type(o)
    assert learn.predict(file, with_input=True)[0].shape == (3, 32, 32)

def test_test_dl_takes_many_photos_in_any_form(learn):
    want, files = learn.get_preds()[0], learn.dls.valid_ds.items.file
    paths = [Path(o) for o in files]
    for o in (paths, L(paths), iter(paths), [*files], files, files.values,
              np.stack([np.array(Image.open(o)) for o in files]), [o.open('rb') for o in paths],
              [o.read_bytes() for o in paths], learn.dls.valid_ds.items,
              [r for _,r in learn.dls.valid_ds.items.iterrows()]):
        preds, targs = learn.get_preds(dl=learn.dls.test_dl(o))
        assert torch.allclose(preds, want, atol=1e-5) and targs is None, type(o)
    assert torch.allclose(learn.get_preds(dl=learn.dls.test_dl(paths[0]))[0], want[:1], atol=1e-5)

def test_labels_of_files(learn, portraits):
    want, files = learn.get_preds()[1], learn.dls.valid_ds.items.file.map(Path)
    for o in (files, [*map(str, files)], learn.dls.valid_ds.items):
        assert torch.equal(learn.get_preds(dl=learn.dls.test_dl(o, with_labels=True))[1], want)
    dl = learn.dls.test_dl(get_image_files(portraits), with_labels=True)
    assert GenderInterpretation.from_learner(learn, dl=dl).scores().n['accuracy'] == 24   # it needs the files' names

def test_labels_that_are_not_known(learn, portraits, tmp_path):
    shutil.copy(first(get_image_files(portraits)), tmp_path/'a.jpg')
    with pytest.raises(ValueError, match=r'a.jpg is in no class folder .men, women.: pass a table'):
        learn.dls.test_dl([tmp_path/'a.jpg'], with_labels=True)
    with pytest.raises(ValueError, match='label .*bytes.* is not known'):
        learn.dls.test_dl([b'photo'], with_labels=True)
    with pytest.raises(ValueError, match='fits cats'):
        learn.dls.test_dl(pd.DataFrame(dict(file=['a.jpg'], label=['cats'])), with_labels=True)

def test_what_is_no_photo(learn, tmp_path):
    for o in (None, 3, dict(file='a.jpg')):
        with pytest.raises((PhotoProblem, TypeError), match=type(o).__name__): learn.predict(o)
    with pytest.raises(PhotoProblem, match='nowhere.jpg: no such file'): learn.predict(tmp_path/'nowhere.jpg')
    with pytest.raises(PhotoProblem, match='empty file'): learn.predict(b'')
    with pytest.raises(ValueError, match='no photo'): learn.dls.test_dl(get_image_files(tmp_path))

def test_a_table_is_read_as_the_source_was(portraits, tmp_path):
    files, dest = get_image_files(portraits), tmp_path/'photos'
    shutil.copytree(portraits, dest)
    df = pd.DataFrame(dict(who=[o.parent.name for o in files], age=3,
                           photo=[o.relative_to(portraits).as_posix() for o in files], split=['train', 'valid']*12))
    df.to_csv(dest/'table.csv', index=False)
    columns = dict(fn_col='photo', label_col='who', size=32, num_workers=0)
    for dls in (gender_dls(df, folder=dest, **columns), gender_dls(dest/'table.csv', **columns)):
        dl = dls.test_dl(df.head(5), with_labels=True)
        assert (dl.items.label.tolist() == df.who[:5].tolist()
                and torch.equal(dl.one_batch()[0], dls.test_dl(dl.items.file).one_batch()[0]))
        assert dls.test_dl(df[['photo']]).n == dls.test_dl(df[['age', 'photo']]).n == 24
        assert dls.test_dl(dls.photos).items.file.tolist() == dls.photos.file.tolist()   # these are found as they are
        with pytest.raises(ValueError, match='labels come from a table here'): dls.test_dl(files, with_labels=True)

def test_labels_by_a_function_and_under_new_names(portraits):
    dls = gender_dls(portraits, lambda o: o.parent.name[:-2], size=32, num_workers=0)
    assert {*dls.test_dl(get_image_files(portraits), with_labels=True).items.label} == {'m', 'wom'}
    dls = gender_dls(portraits, classes=dict(men='Herren', women='Damen'), size=32, num_workers=0)
    assert {*dls.test_dl(get_image_files(portraits/'men'), with_labels=True).items.label} == {'Herren'}

def test_photos_in_hand_on_a_block_of_one_s_own(portraits):
    table = pd.DataFrame(dict(file=[*map(str, get_image_files(portraits))])).assign(
        split=['train', 'valid']*12, label=['men', 'women']*12)
    dls = gender_block(['men', 'women'], 32).dataloaders(table, num_workers=0)
    file = Path(table.file[0])
    a, b = (dls.test_dl([o]).one_batch()[0] for o in (file, file.read_bytes()))
    assert torch.equal(a, b)

# callbacks

def trained(learn, *cbs, epochs=2):
    "Train with callbacks, and check that the learner is whole afterwards"
    dls, loss_func, n = learn.dls, learn.loss_func, len(learn.cbs)
    learn.fit_one_cycle(epochs, cbs=[*cbs])
    assert (learn.dls is dls and learn.loss_func is loss_func and len(learn.cbs) == n
            and 'forward' not in vars(learn.model))
    assert np.isfinite(learn.recorder.values[-1]).all()
    return learn

@pytest.mark.parametrize('rapid', [False, True])
def test_callbacks(make, rapid, capsys):
    learn = make(rapid)
    trained(learn, SaveModelCallback(monitor='accuracy'), CSVLogger(append=True), ReduceLROnPlateau(), GradientClip(),
            GradientAccumulation(16), TerminateOnNaNCallback())
    assert (learn.path/'models'/'model.pth').is_file() and len(pd.read_csv(learn.path/'history.csv')) == 2
    # no epoch is that much better
    trained(learn, EarlyStoppingCallback(min_delta=100), MixUp(), MixedPrecision('bf16'), ShortEpochCallback(.5),
            epochs=3)
    assert len(learn.recorder.values) == 2 and '█' not in capsys.readouterr().out
    learn.load('model')

@pytest.mark.parametrize('rapid', [False, True])
def test_a_callback_asks_for_predictions(make, rapid):
    class Ask(Callback):
        def after_epoch(self):   # without `inner`, fastai waits for ever
            self.preds = self.learn.get_preds(dl=self.dls.test_dl([file, file]), inner=True)[0]
    learn = make(rapid)
    file = Path(learn.dls.valid_ds.items.file.iloc[0])
    learn.fit(1, cbs=(fetch := FetchPredsCallback()))
    assert torch.allclose(fetch.preds[0], learn.get_preds()[0], atol=1e-5)
    learn.fit(1, cbs=(ask := Ask()))
    assert torch.allclose(ask.preds, learn.get_preds()[0][[0, 0]], atol=1e-5)

def test_what_needs_photos_says_so(make):
    trained(make(), CutMix(), epochs=1)
    learn = make(True)
    with pytest.raises(ValueError, match='CutMix needs photos.*use MixUp, or train without to_rapid'):
        learn.fit(1, cbs=CutMix())
    class Show(Callback):
        def before_fit(self): self.dls.show_batch()
    with pytest.raises(AttributeError, match="features, which have no 'show_batch': leave out the callback"):
        learn.fit(1, cbs=Show())
    trained(learn, epochs=1)

@pytest.mark.parametrize('rapid', [False, True])
def test_an_interrupt_of_mixup_gives_the_loss_back(make, rapid):
    class Stop(Callback):
        def before_backward(self): raise KeyboardInterrupt
    learn = make(rapid)
    loss_func = learn.loss_func
    with pytest.raises(KeyboardInterrupt): learn.fit(1, cbs=[MixUp(), Stop()])
    assert learn.loss_func is loss_func

def test_half_precision_is_not_asked_for_twice(make):
    class Count(Callback):
        def before_fit(self): self.n = sum(isinstance(o, MixedPrecision) for o in self.learn.cbs)
    learn = make(True)
    learn.unfreeze()
    learn.rapid.dtype = torch.bfloat16
    for cbs in ([], [MixedPrecision('bf16')]): assert trained(learn, count := Count(), *cbs, epochs=1) and count.n == 1

# metrics, losses

@pytest.mark.parametrize('rapid', [False, True])
def test_metrics(make, rapid):
    learn = make(rapid, metrics=[accuracy, error_rate, RocAucBinary(), F1Score(), Precision(), Recall(),
                                 BalancedAccuracy(), MatthewsCorrCoef(), CohenKappa(), Perplexity()])
    trained(learn)
    names, last = learn.recorder.metric_names[1:-1], learn.recorder.values[-1]
    assert np.allclose(last[1:], learn.validate(), atol=1e-4) and len(names) == len(last) == 12

losses = [LabelSmoothingCrossEntropy(), LabelSmoothingCrossEntropyFlat(), FocalLoss(), FocalLossFlat(),
          nn.CrossEntropyLoss(weight=tensor([1., 2.])), F.cross_entropy, lambda p,y: F.cross_entropy(p, y)]

@pytest.mark.parametrize('loss', losses, ids=lambda o: getattr(o, '__name__', type(o).__name__))
@pytest.mark.parametrize('rapid', [False, True])
def test_losses(make, rapid, loss):
    learn = trained(make(rapid, loss_func=loss), epochs=1)
    preds, targs = learn.get_preds()
    assert torch.allclose(preds.sum(1), torch.ones(len(preds)), atol=1e-5)   # probabilities
    label, index, probs = learn.predict(Path(learn.dls.valid_ds.items.file.iloc[0]))
    assert torch.allclose(probs, preds[0], atol=1e-5) and label == learn.dls.vocab[probs.argmax()]
    if getattr(loss, '__name__', '') != '<lambda>': trained(learn, MixUp(), epochs=1)
    if loss is F.cross_entropy:
        assert GenderInterpretation.from_learner(learn).scores().n['accuracy'] == len(targs) and learn.to_classifier()

def test_weights_and_a_loss_of_one_s_own(make):
    with pytest.raises(ValueError, match='class_weights weigh the default loss'):
        make(loss_func=nn.CrossEntropyLoss(), class_weights='balanced')

# export, seeds, workers

@pytest.mark.parametrize('rapid', [False, True])
def test_export(make, rapid, tmp_path):
    learn = trained(make(rapid, loss_func=nn.CrossEntropyLoss()), epochs=1)
    file = Path(learn.dls.valid_ds.items.file.iloc[0])
    learn.export(tmp_path/'learn.pkl')
    back, want = load_learner(tmp_path/'learn.pkl'), learn.predict(file)
    for o in forms(file): assert torch.allclose(back.predict(o)[2], want[2], atol=1e-5), type(o)
    assert torch.allclose(back.get_preds(dl=back.dls.test_dl([file, file]))[0][1], want[2], atol=1e-5)
    with pytest.raises(ValueError, match='Pass a table'): back.dls.test_dl([file], with_labels=True)

@pytest.mark.parametrize('rapid', [False, True])
def test_equal_seeds_give_equal_bits(make, rapid):
    runs = [trained(make(rapid), MixUp()) for _ in range(2)]
    a, b = (o.model.state_dict() for o in runs)
    assert runs[0].recorder.values == runs[1].recorder.values and all(torch.equal(a[k], b[k]) for k in a)

def test_workers_by_spawn_get_everything(make):
    "Windows, macOS and Python 3.14 send data to workers in a pickle"
    learn = make(True)
    file = Path(learn.dls.valid_ds.items.file.iloc[0])
    dls = gender_dls(file.parents[1], lambda o: o.parent.name, size=32, bs=8, num_workers=0)   # a lambda stays here
    for dl in (dls.train, dls.valid, dls.test_dl([file]), dls.test_dl([file], with_labels=True),
               dls.test_dl([file.open('rb')]), features._views_dl(dls, dls.train_ds, 2)):
        again = pickle.loads(pickle.dumps(dl))
        again.rng, dl.rng = random.Random(0), random.Random(0)
        set_seed(0); a = dl.one_batch()
        set_seed(0); b = again.one_batch()
        assert torch.equal(a[0], b[0])

# a full disk, a missing package

@contextmanager
def full_disk():
    "A file of more than 1000 bytes finds no room; only in the test itself, as pytest writes files too"
    resource = pytest.importorskip('resource')   # not on Windows
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, old[1]))
    try: yield
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, old)

def test_cache_on_a_full_disk(portraits, tmp_path):
    files, cache = get_image_files(portraits), PhotoCache(tmp_path/'c')
    with full_disk(), pytest.warns(UserWarning,
                                   match='cannot be used .File too large.: photos are decoded as without it') as said:
        for o in files: assert np.array_equal(cache.read(o), PILPhoto.create(o))
    assert len(said) == 1 and not list((tmp_path/'c').iterdir())

def test_a_table_on_a_full_disk(tmp_path):
    with full_disk(), pytest.raises(OSError, match='b.csv cannot be written .File too large.: make room'):
        write_tables([pd.DataFrame(dict(a=range(1000)))], tmp_path/'b.csv')
    assert not list(tmp_path.iterdir())

def test_parquet_without_pyarrow(portraits, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pyarrow', None)
    for f in (lambda: write_tables([pd.DataFrame(dict(a=[1]))], tmp_path/'a.parquet'),
              lambda: predict_to_file(None, portraits, tmp_path/'a.parquet')):
        with pytest.raises(ImportError, match=r"Parquet needs pyarrow: `pip install 'genderres\[parquet\]'`"): f()
    assert not list(tmp_path.iterdir())

def test_little_shared_memory(portraits, monkeypatch):
    "As many workers as find room for their batches"
    space = namedtuple('space', 'free')
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: space(64_000_000))
    kwargs = dict(size=224, bs=16, num_workers=14)   # batches of 2.4 MB
    with pytest.warns(UserWarning, match='has 64 MB, too little for 14 workers with batches of 2.41 MB: '
                                         '12 read photos. Lower bs'):
        dls = gender_dls(portraits, **kwargs)
    assert {o.fake_l.num_workers for o in dls.loaders} == {12}
    with pytest.warns(UserWarning, match='batches of 12 MB: 2 read'):
        assert features._views_dl(dls, dls.train_ds, 5).fake_l.num_workers == 2
    files = get_image_files(portraits)
    with pytest.warns(UserWarning, match='too little for 14 workers with batches of 9.63 MB: 2 read'):
        assert dls.test_dl(files, bs=64, num_workers=14).fake_l.num_workers == 2
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: space(0))
    with pytest.warns(UserWarning, match='0 read photos'):
        assert gender_dls(portraits, **kwargs).train.one_batch()[0].shape == (16, 3, 224, 224)
