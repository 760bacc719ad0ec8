"Rapid training: bad input, interrupts, and what must go on working afterwards"
import multiprocessing, os, random, signal, subprocess, sys, time, warnings
from pathlib import Path
from types import SimpleNamespace
import numpy as np, pandas as pd, pytest, torch
from fastai.vision.all import (Callback, CancelBatchException, EarlyStoppingCallback, ImageDataLoaders, Resize,
                               RandTransform, SaveModelCallback, TensorImage, Transform, aug_transforms, resnet18,
                               set_seed)
from genderres import cache as cache_module, classifier, features, precision
from genderres.classifier import GenderClassifier
from genderres.data import PILPhoto, gender_dls
from genderres.learner import gender_learner
from genderres.cache import PhotoCache, cache_photos, cached_files, clear_cache
from genderres.features import GrowSize
from genderres.precision import fastest_precision, forward_seconds
from genderres.reader import PhotoProblem

forks = pytest.mark.skipif('fork' not in multiprocessing.get_all_start_methods(), reason='this system does not fork')

@pytest.fixture
def quiet(photos, weights):
    "A frozen learner for the photos, trained rapidly, that prints nothing"
    def make(views=2, source=photos, **kwargs):
        set_seed(1)
        learn = (gender_learner(gender_dls(source, size=32, bs=8, num_workers=0), resnet18, weights, **kwargs)
                 .to_rapid(views, dtype=torch.float32))
        learn.remove_cbs([learn.progress])
        learn.logger = lambda o: None
        return learn
    return make

def whole(learn, dls):
    return learn.dls is dls and 'forward' not in vars(learn.model) and not torch.is_autocast_enabled('cpu')

def test_what_follows_goes_on_working(quiet, tmp_path, photos):
    learn = quiet()
    dls = learn.dls
    learn.path = tmp_path
    learn.fit_one_cycle(2, cbs=[SaveModelCallback(), EarlyStoppingCallback(patience=5)])
    state = {k: v.clone() for k,v in learn.model.state_dict().items()}
    learn.load('model')   # the whole network, not the head
    learn.save('again')
    learn.load('again')
    assert all(torch.equal(v, state[k]) for k,v in learn.model.state_dict().items())
    assert (whole(learn, dls) and len(learn.recorder.values) == 2
            and len(learn.recorder.lrs) == len(learn.recorder.losses) >= 40)
    classifier = learn.to_classifier()   # asks whether the classifier says what the learner says
    assert len(classifier.predict(str(photos))) == 20
    learn.export('learn.pkl')
    assert (tmp_path/'learn.pkl').stat().st_size < 200e6 and learn.rapid.kept is not None
    learn.show_results(max_n=2)
    learn.unfreeze()
    before = learn.model[0][0].weight.clone()
    learn.fit_one_cycle(1, slice(1e-5, 1e-4))
    assert not torch.equal(before, learn.model[0][0].weight) and whole(learn, dls)

def test_the_body_stays_as_it_is_even_after_it_was_trained(quiet):
    learn = quiet()
    learn.unfreeze()
    learn.fit_one_cycle(1)   # leaves gradients of the body
    learn.freeze()
    before = {k: v.clone() for k,v in learn.model[0].state_dict().items()}
    learn.fit_one_cycle(1)
    assert all(torch.equal(v, before[k]) for k,v in learn.model[0].state_dict().items())

def test_a_callback_may_look_at_photos(quiet):
    class Ask(Callback):
        def after_epoch(self): self.preds = self.model.eval()(photos)
    learn = quiet()
    photos = learn.dls.valid.one_batch()[0]
    learn.fit(1, cbs=(ask := Ask()))
    assert torch.allclose(ask.preds, learn.model.eval()(photos))

@pytest.mark.parametrize('frozen', [True, False])
@pytest.mark.parametrize('error', [KeyboardInterrupt, RuntimeError])
def test_an_interrupt_leaves_the_learner_whole(quiet, frozen, error):
    learn = quiet()
    dls = learn.dls
    if not frozen:
        learn.unfreeze()
        learn.rapid.dtype = torch.bfloat16
    class Stop(Callback):
        order = 11   # after Autocast
        def before_batch(self): raise error('stop')
    with pytest.raises(error): learn.fit_one_cycle(2, cbs=[Stop(), GrowSize()])
    assert whole(learn, dls) and tuple(dls.train.after_item.fs[0].size) == (32, 32)
    learn.remove_cbs([Stop, GrowSize])
    learn.rapid.dtype = torch.float32
    learn.fit_one_cycle(1)

def test_a_batch_that_is_cancelled_leaves_no_autocast(quiet):
    class Skip(Callback):
        order = 11   # after Autocast
        def before_batch(self):
            if self.training and self.epoch == 1: raise CancelBatchException
    learn = quiet()
    dls = learn.dls
    learn.unfreeze()
    learn.rapid.dtype = torch.bfloat16
    learn.fit(2, cbs=Skip())
    assert whole(learn, dls)

def test_an_error_while_the_model_is_wrapped_is_the_error_that_is_seen(quiet):
    "As in distributed training, where the wrapper stays after an error"
    learn = quiet()
    dls, model = learn.dls, learn.model
    class Wrap(Callback):
        def before_fit(self): self.learn.model = torch.nn.Sequential(model)
        def before_train(self): raise ZeroDivisionError('the cause')
    with pytest.raises(ZeroDivisionError, match='the cause'): learn.fit(1, cbs=Wrap())
    learn.model = model
    assert whole(learn, dls)

def test_as_many_steps_in_several_processes(quiet, monkeypatch):
    "Each of n processes has an nth of the batch, and takes an nth of the steps"
    dls, kept = quiet().dls, (torch.zeros(2, 320, 4), torch.zeros(320), torch.zeros(1, 80, 4), torch.zeros(80))
    def steps(n):
        monkeypatch.setattr(features, 'num_distrib', lambda: n)
        dls.train.bs = 40//max(n, 1)
        return len(features._feature_dls(dls, *kept).train)/max(n, 1)
    assert steps(0) == steps(1) == steps(2) == steps(4) == 32

class Noise(Transform):
    s = None
    def encodes(self, x: TensorImage): return x + self.s

class RandomNoise(RandTransform):
    s = None
    def encodes(self, x: TensorImage): return x + self.s

@pytest.mark.parametrize('kind', [Noise, RandomNoise])
def test_a_transform_that_changed_makes_features_anew(quiet, kind):
    learn = quiet()
    (noise := kind()).s = .1
    for o in learn.dls.loaders: o.after_batch.add([noise, *aug_transforms(max_warp=.2, max_lighting=.4)])
    learn.fit(1)
    kept = learn.rapid.kept
    learn.fit(1)
    assert learn.rapid.kept is kept   # what was drawn is no change
    noise.s = .2
    learn.fit(1)
    assert learn.rapid.kept is not kept
    before = features._fingerprint(learn)
    for k,v in dict(ratio=(1., 1.), max_scale=.9).items():
        setattr(features._crop(learn.dls), k, v)
        assert before != (before := features._fingerprint(learn)), k

def test_more_views_than_memory(quiet, monkeypatch):
    learn = quiet(views=10)
    monkeypatch.setattr(features, 'memory_left', lambda: 4*1024*len(learn.dls.train_ds)*7)
    monkeypatch.setattr(features, 'progress_bar', lambda *args, **kwargs: pytest.fail('the work has started'))
    with pytest.raises(ValueError, match='views=10 .* views=5 fits'): learn.fit_one_cycle(1)
    monkeypatch.setattr(features, 'memory_left', lambda: 0)
    with pytest.raises(ValueError, match='not even one fits'): learn.fit_one_cycle(1)
    with pytest.raises(ValueError, match='views=0'): learn.to_rapid(0)

def test_another_head_is_refused(photos, weights):
    learn = gender_learner(gender_dls(photos, size=32, bs=8, num_workers=0), resnet18, weights)
    learn.model[1] = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(512, 2))
    with pytest.raises(ValueError, match='AdaptiveConcatPool2d'): learn.to_rapid(dtype=torch.float32)

def test_a_photo_changes_or_vanishes(quiet, photos):
    learn = quiet()
    learn.fit(1)
    file, kept = Path(learn.dls.train_ds.items.file.iloc[0]), learn.rapid.kept
    PILPhoto.create(file).rotate(180).save(file)
    learn.fit(1)
    alike = torch.isclose(learn.rapid.kept[0][0], kept[0][0], atol=1e-3).all(1)
    assert not alike[0] and alike[1:].all()
    file.unlink()
    with pytest.raises(PhotoProblem, match=f'{file.name}: .*put it back'): learn.fit(1)

def test_same_seed_same_result(quiet):
    runs = []
    for _ in range(2):
        learn = quiet()
        learn.fit_one_cycle(2)
        runs.append((learn.recorder.values, learn.recorder.losses[-1]))
    assert runs[0] == runs[1]

def test_precision_by_a_margin(monkeypatch):
    net, sizes = torch.nn.Conv2d(3, 3, 3), iter(range(1, 9))   # another size is measured again
    def found(*seconds):
        layouts = [torch.channels_last, torch.contiguous_format]*2
        table = pd.DataFrame(dict(precision=[torch.float32]*2 + [torch.bfloat16]*2, layout=layouts, seconds=seconds))
        monkeypatch.setattr(precision, 'measure_precision', lambda *args: table)
        return fastest_precision(net, next(sizes))
    assert found(1, .9, .8, .9) == (torch.float32, torch.channels_last)
    assert found(1, .9, .3, .9) == (torch.bfloat16, torch.channels_last)
    assert found(1, .2, 9, 9) == (torch.float32, torch.contiguous_format)

def test_time_is_up_when_the_device_is_done(monkeypatch):
    monkeypatch.setattr(torch.mps, 'synchronize', lambda: time.sleep(.02))
    class Photos:
        device = torch.device('mps')
        def __getitem__(self, i): return self
    assert forward_seconds(lambda x: x, Photos(), torch.float32, np.inf) >= .02

@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_the_layout_that_was_measured_is_used(untrained, monkeypatch, layout):
    seen, photos = [], np.zeros((2, 32, 32, 3), np.uint8)
    def look(*args): seen.append(args[-1].is_contiguous(memory_format=layout))
    monkeypatch.setattr(classifier, 'fastest_precision', lambda *args: (torch.float32, layout))
    clf = GenderClassifier.load(untrained, 'cpu').to_rapid()
    clf.net.register_forward_pre_hook(lambda net, args: look(*args))
    clf.logits(photos)
    seconds = iter([1000., 2., 1.])   # long work, and a gain
    monkeypatch.setattr(classifier, 'forward_seconds', lambda *args, **kwargs: next(seconds))
    monkeypatch.setattr(torch, 'compile', lambda net, **kwargs: lambda x: look(x) or torch.zeros(len(x), 2))
    clf.to_rapid(photos=10**6).logits(photos)
    assert seen == [True]*2

@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_on_a_gpu(photos, weights, dtype):
    learn = gender_learner(gender_dls(photos, size=64, bs=8, num_workers=2), resnet18, weights).to_rapid(dtype=dtype)
    learn.fine_tune(1)
    assert next(learn.model.parameters()).is_cuda and np.isfinite(learn.recorder.values[-1]).all()
    assert learn.to_rapid().rapid.dtype in (torch.float32, torch.bfloat16, torch.float16)

# the cache of decoded photos

def read(cache, files): return [np.asarray(cache.read(o)) for o in files]

@pytest.fixture
def files(photos): return sorted(photos.rglob('*.jpg'))

def same(a, b): return all(np.array_equal(x, y) for x,y in zip(a, b, strict=True))

def test_cache_of_a_changed_photo(files, tmp_path):
    cache = PhotoCache(tmp_path/'c')
    first, = read(cache, files[:1])
    times = files[0].stat()
    data = files[1].read_bytes().ljust(times.st_size, b'\0')[:max(times.st_size, files[1].stat().st_size)]
    files[0].write_bytes(data)
    os.utime(files[0], ns=(times.st_atime_ns, times.st_mtime_ns))   # path and time tell nothing
    now, = read(cache, files[:1])
    assert np.array_equal(now, np.asarray(PILPhoto.create(files[1]))) and not np.array_equal(now, first)
    files[0].unlink()
    with pytest.raises(PhotoProblem, match=f'{files[0].name}: no such file.*put it back'): read(cache, files[:1])

def damaged(file):
    return [b'', file.read_bytes()[:10], file.read_bytes()[:-5], bytes(1000),
            file.read_bytes()[:-1] + bytes([file.read_bytes()[-1] ^ 1])]

def test_damaged_cache_is_rebuilt(files, tmp_path):
    cache = PhotoCache(tmp_path/'c')
    want = read(cache, files[:1])
    kept, = (tmp_path/'c').iterdir()
    for bad in damaged(kept):
        kept.write_bytes(bad)
        with pytest.warns(UserWarning, match='damaged; the photo is decoded again'):
            assert same(read(cache, files[:1]), want)
        assert same(read(cache, files[:1]), want)   # no warning any more

def test_cache_that_cannot_be_written(files, tmp_path, monkeypatch):
    (tmp_path/'file').write_text('in the way')
    want = [np.asarray(PILPhoto.create(o)) for o in files]
    cache = PhotoCache(tmp_path/'file')
    with pytest.warns(UserWarning, match='cannot be used') as said: assert same(read(cache, files), want)
    assert len(said) == 1
    cache = PhotoCache(tmp_path/'full')
    def no_space(*args): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(cache_module.os, 'replace', no_space)
    with pytest.warns(UserWarning, match='No space left on device') as said: assert same(read(cache, files), want)
    assert len(said) == 1 and list((tmp_path/'full').iterdir()) == []
    def stop(*args): raise KeyboardInterrupt
    monkeypatch.setattr(cache_module.os, 'replace', stop)
    with pytest.raises(KeyboardInterrupt): read(PhotoCache(tmp_path/'full'), files)
    assert list((tmp_path/'full').iterdir()) == []

def test_cache_is_bounded_and_cleared(files, tmp_path):
    folder = tmp_path/'c'
    folder.mkdir()
    (folder/'notes.txt').write_text('mine')
    each = 3*64*64 + 16
    for part in (files[:8], files[8:16]):
        cache = PhotoCache(folder, max_bytes=5*each)
        cache.opened += 3600   # what is there was used by runs before
        read(cache, part)
        assert sum(o.stat().st_size for o in folder.iterdir() if o.suffix != '.txt') <= 5*each
    assert clear_cache(folder) > 0
    assert [o.name for o in folder.iterdir()] == ['notes.txt'] and clear_cache(folder) == 0

def _read_all(args):
    folder, files = args
    cache = PhotoCache(folder)
    return [int(np.asarray(cache.read(o)).sum()) for o in files]

def test_two_runs_share_a_cache(files, tmp_path):
    with multiprocessing.get_context('spawn').Pool(2) as pool:
        a, b = pool.map(_read_all, [(tmp_path/'c', files), (tmp_path/'c', files[::-1])])
    assert a == b[::-1] == [int(np.asarray(PILPhoto.create(o)).sum()) for o in files]
    assert len(list((tmp_path/'c').iterdir())) == len({o.read_bytes() for o in files})

def _read_for_a_while(folder, files, seed, seconds):
    "Read in random order into a cache of four photos, of which none counts as used, and empty it now and then"
    rng, end = random.Random(seed), time.time() + seconds
    cache = PhotoCache(folder, max_bytes=4*(3*64*64 + 16))
    cache.opened += 3600
    with warnings.catch_warnings():
        warnings.simplefilter('error')   # the cache is never full, damaged or given up
        while time.time() < end:
            file = rng.choice(files)
            assert np.array_equal(np.asarray(cache.read(file)), np.asarray(PILPhoto.create(file)))
            if rng.random() < .02: clear_cache(folder)
    assert cache.writes

@forks
def test_processes_that_empty_one_cache(files, tmp_path):
    processes = [multiprocessing.get_context('fork').Process(target=_read_for_a_while,
                                                             args=(tmp_path/'c', files, i, 3)) for i in range(6)]
    for o in processes: o.start()
    for o in processes: o.join(60)
    assert [o.exitcode for o in processes] == [0]*6
    # each may write one too many
    assert sum(o.stat().st_size for o in (tmp_path/'c').iterdir()) <= (4 + 6)*(3*64*64 + 16)

each, many = 3*8*8 + 16, 10_000   # bytes in the cache, photos

def _drawn(i): return np.random.default_rng(i).integers(0, 256, (8, 8, 3), np.uint8)

def _read_many(cache_folder, photos, seed, end, kept=500):
    "Read photos in random order into a cache with room for `kept`, of which none counts as used"
    cache, rng = PhotoCache(cache_folder, max_bytes=kept*each), random.Random(seed)
    cache.opened += 3600
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        while time.time() < end:
            i = rng.randrange(many)
            assert np.array_equal(np.asarray(cache.read(photos/f'{i}.ppm')), _drawn(i))
    assert cache.writes

@pytest.mark.slow
@forks
def test_many_processes_one_small_cache_and_kills(tmp_path):
    "Eight processes read 10,000 photos for forty seconds; twice a second, one is killed and replaced"
    for i in range(many): (tmp_path/f'{i}.ppm').write_bytes(b'P6 8 8 255\n' + _drawn(i).tobytes())
    rng, end, most = random.Random(0), time.time() + 40, 0
    def start():
        args = tmp_path/'c', tmp_path, rng.random(), end
        (res := multiprocessing.get_context('fork').Process(target=_read_many, args=args)).start()
        return res
    processes, killed = [start() for _ in range(8)], []
    while time.time() < end - 2:
        time.sleep(.5)
        most = max(most, sum(s.st_size for _,s in cached_files(tmp_path/'c')))
        i = rng.randrange(8)
        processes[i].kill()
        killed.append(processes[i])
        processes[i] = start()
    for o in processes + killed: o.join(60)
    assert [o.exitcode for o in processes] == [0]*8 and {o.exitcode for o in killed} == {-signal.SIGKILL}
    assert len(killed) > 50 and 400*each < most < 1.2*500*each   # each measures after a fiftieth of the size
    _read_many(tmp_path/'c', tmp_path, 1, time.time() + 1)   # what is left is whole

@forks
def test_killed_while_caching(files, tmp_path):
    "What a killed process was writing does no harm, counts towards the size of the folder, and makes room for others"
    def die(*args): os.kill(os.getpid(), signal.SIGKILL)
    def work(): cache_module.os.replace = die; PhotoCache(tmp_path/'c').read(files[0])
    child = multiprocessing.get_context('fork').Process(target=work)
    child.start(); child.join()
    unfinished, = (tmp_path/'c').iterdir()
    assert child.exitcode == -signal.SIGKILL and unfinished.suffix == '.tmp'
    cache = PhotoCache(tmp_path/'c', max_bytes=2*(3*64*64 + 16))
    cache.opened += 3600
    assert same(read(cache, files), [np.asarray(PILPhoto.create(o)) for o in files])
    assert not unfinished.exists() and cache.writes

def test_interrupted_while_caching(files, tmp_path, monkeypatch):
    cache, decode, done = PhotoCache(tmp_path/'c'), cache_module.decode_photo, []
    def stop(*args):
        if len(done) == 7: raise KeyboardInterrupt
        done.append(1)
        return decode(*args)
    monkeypatch.setattr(cache_module, 'decode_photo', stop)
    with pytest.raises(KeyboardInterrupt): read(cache, files)
    done.clear()
    monkeypatch.setattr(cache_module, 'decode_photo', lambda *args: done.append(1) or decode(*args))
    read(PhotoCache(tmp_path/'c'), files)
    assert len(done) == len(files) - 7

def test_same_training_with_a_cache(photos, weights, tmp_path):
    runs = []
    for cached in (False, True, True):
        set_seed(3)
        dls = gender_dls(photos, size=32, bs=8, num_workers=0)
        if cached: cache_photos(dls, tmp_path/'c')
        learn = gender_learner(dls, resnet18, weights)
        with learn.no_bar(), learn.no_logging(): learn.fit(1)
        runs.append(learn.recorder.values)
    assert runs[0] == runs[1] == runs[2]
    assert len(learn.to_classifier().predict(str(photos))) == 20

def test_other_data_are_refused(quiet, photos):
    learn = quiet()
    learn.dls = ImageDataLoaders.from_folder(photos, valid_pct=.2, item_tfms=Resize(32), num_workers=0)
    with pytest.raises(ValueError, match='cache_photos needs the DataLoaders of gender_dls'): cache_photos(learn.dls)
    with pytest.raises(ValueError, match='to_rapid needs the DataLoaders of gender_dls'):
        learn.to_rapid(dtype=torch.float32)

def test_importing_the_package_is_light():
    subprocess.run([sys.executable, '-c', 'import genderres, sys; '
                    'assert "torch" not in sys.modules and "fastai" not in sys.modules'], check=True)

def test_importing_everything_says_nothing():
    "fastai's use of torch.jit.script is no concern of the user"
    assert subprocess.run([sys.executable, '-c', 'import genderres.all'], capture_output=True, text=True,
                          check=True).stderr == ''

def test_the_cache_of_files_is_no_memory_in_use(monkeypatch):
    "In a container: of 8 GB, 7 are in use, of which 6 hold files that were read"
    said = dict(max='8000', current='7000', stat='anon 900\nactive_file 2000\ninactive_file 4000\nfile_mapped 5\n')
    monkeypatch.setattr(features, 'Path', lambda o: SimpleNamespace(read_text=lambda: said[o.rpartition('.')[2]]))
    assert features.memory_left() == 7000
    said['max'] = 'max\n'
    assert features.memory_left() > 10**6

@pytest.mark.parametrize('seconds,workers', [(0., 2), (1e3, 0)])
def test_workers_where_reading_takes_the_time(photos, weights, monkeypatch, seconds, workers):
    "Beside a network that takes longer, they only take its cores"
    monkeypatch.setattr(features, 'forward_seconds', lambda *args: seconds)
    learn = gender_learner(gender_dls(photos, size=32, bs=8, num_workers=2), resnet18, weights)
    learn.to_rapid(dtype=torch.float32)
    assert [o.fake_l.num_workers for o in learn.dls.loaders] == [workers]*2
