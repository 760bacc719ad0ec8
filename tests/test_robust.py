"What newcomers and attackers tried: places for results, tables and layouts of others, uploads, forks, full disks"
import io, multiprocessing, os, subprocess, sys, warnings
from pathlib import Path
import numpy as np, pandas as pd, pytest
from fastai.vision.all import (BCELossFlat, BCEWithLogitsLossFlat, MSELossFlat, first, get_image_files, nn, noop,
                               resnet18, set_seed)
from genderres.check import check_images, inspect_photos
from genderres.cli import app
from genderres.data import gender_dls
from genderres.experiment import run_experiment
from genderres.learner import gender_learner
from genderres.photos import photos_from_folder, photos_from_source
from genderres.predict import Classifier, OnnxClassifier, predict_to_file
from genderres.reader import not_fetched, read_photo
from genderres.sort import sort_photos
from typer.testing import CliRunner

def run(*args, code=0):
    res = CliRunner().invoke(app, [*map(str, args)])
    assert res.exit_code == code, res.output
    return res

# where results may go

@pytest.mark.parametrize('overwrite', [False, True])
def test_no_plots_among_photos_that_a_table_lists(photos, tmp_path, monkeypatch, overwrite):
    "`-o photos.safetensors` with a table: its plots would go into the folder of the photos"
    monkeypatch.chdir(tmp_path)
    found = photos_from_folder('photos')
    found[['file', 'label']].to_csv('labels.csv', index=False)
    for out in ('photos.safetensors', 'photos/men.safetensors'):
        err = run('train', 'labels.csv', '-o', out, *(['--overwrite'] if overwrite else []), code=2).stderr
        assert 'holds photos' in err and '--overwrite' not in err
    assert 'holds photos' in run('demo', 'photos', code=2).stderr and sorted(os.listdir('photos')) == ['men', 'women']

@pytest.mark.parametrize('name,says', [
    ('taken', 'taken is a file'), ('/proc/new', 'new.safetensors cannot be written')])
def test_results_that_cannot_be_written_are_refused_before_the_training(photos, tmp_path, monkeypatch, name, says):
    if '/proc' in name and not os.path.isdir('/proc'): pytest.skip('no /proc here')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('genderres.experiment.run_experiment', None)
    (tmp_path/'taken').touch()
    assert says in run('train', photos, '-o', f'{name}.safetensors', '--overwrite', code=2).stderr
    assert 'is a file' in run('demo', 'taken', code=2).stderr

def test_notes_beside_plots_stay(photos, tmp_path):
    (tmp_path/'out').mkdir()
    (tmp_path/'out'/'notes.txt').write_text('mine')
    set_seed(0)
    dls = gender_dls(photos, size=32, bs=8, num_workers=0)
    with pytest.raises(FileExistsError, match='holds photos'): run_experiment(dls, photos)
    run_experiment(dls, tmp_path/'out', epochs=1, arch='resnet18')
    assert (tmp_path/'out'/'notes.txt').read_text() == 'mine' and (tmp_path/'out'/'loss.png').is_file()

# tables

def listed(tmp_path, data, **kwargs):
    (tmp_path/'t.csv').write_bytes(data if isinstance(data, bytes) else data.encode())
    found = photos_from_source(tmp_path/'t.csv', **kwargs)
    return [(Path(r.file).name, r.label, r.split) for r in found.itertuples()]

rows = [('a.jpg', 'men'), ('b.jpg', 'women'), ('c.jpg', 'men')]
plain = [(f, l, '') for f,l in rows]

@pytest.mark.parametrize('data,want', [
    ('sep=;\nfile;label\na.jpg;men\nb.jpg;women\nc.jpg;men', plain),
    ('sep=,\na.jpg,men\nb.jpg,women\nc.jpg,men', plain),
    ('"file", "label"\n"a.jpg", "men"\n"b.jpg", "women"\n"c.jpg", "men"', plain),
    ('file,label\na.jpg,men\nfile,label\nb.jpg,women\nfile,label\nc.jpg,men', plain),
    ('train,a.jpg,men\ntrain,b.jpg,women\ntrain,c.jpg,men', [(f, l, 'train') for f,l in rows]),
    ('file,label,is_valid\na.jpg,men,0.0\nb.jpg,women,1.0\nc.jpg,men,0.0',
     [('a.jpg', 'men', 'train'), ('b.jpg', 'women', 'valid'), ('c.jpg', 'men', 'train')]),
    ('file,label,set\na.jpg,men,train_set\nb.jpg,women,Test Set\nc.jpg,men,eval',
     [('a.jpg', 'men', 'train'), ('b.jpg', 'women', 'test'), ('c.jpg', 'men', 'valid')])])
def test_tables_of_others(tmp_path, data, want): assert listed(tmp_path, data) == want

@pytest.mark.parametrize('data,says', [
    ('file,label\na.jpg,men'.encode('utf-16-le'), 'not UTF-8 text'),
    ('file,label\na.jpg,men'.encode('utf-32'), 'not UTF-8 text'), (bytes(9), 'not UTF-8 text'),
    ('file,label\na.jpg,Männer\nb.jpg,Frauen'.encode('cp1252'), 'is not Unicode: save the table as CSV UTF-8')])
def test_tables_in_other_encodings(tmp_path, data, says):
    with pytest.raises(ValueError, match=rf't.csv.* {says}'): listed(tmp_path, data)

@pytest.mark.skipif(os.sep == '\\', reason='a backslash parts folders here')
def test_backslashes_of_windows(photos, tmp_path):
    found = photos_from_folder(photos).head(3)
    names = [str(Path(o).relative_to(tmp_path)) for o in found.file]
    (tmp_path/'odd\\name.jpg').touch()
    odd = [*(o.replace('/', '\\') for o in names), 'odd\\name.jpg']
    pd.DataFrame(dict(file=odd, label='men')).to_csv(tmp_path/'t.csv', index=False)
    assert photos_from_source(tmp_path/'t.csv').file.tolist() == [*found.file, str(tmp_path/'odd\\name.jpg')]

def test_addresses_in_a_table_say_so(tmp_path):
    (tmp_path/'t.csv').write_text('file,label\nhttps://example.org/a.jpg,men\nhttps://example.org/a.jpg,men\n')
    assert photos_from_source(tmp_path/'t.csv').problem.tolist() == [not_fetched]*2

def test_answers_edited_in_a_spreadsheet(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = photos_from_folder('photos').file[:3]
    lines = ['\ufefffile;label;men;women;problem', *(f'{o};men;0,9;0,1;' for o in files), ';;;;\n']
    (tmp_path/'answers.csv').write_text('\r\n'.join(lines), encoding='utf-8')
    assert sort_photos('answers.csv', 'sorted', progress=False).place.tolist() == [f'men/{Path(o).name}' for o in files]

# layouts

def tree(tmp_path, *names):
    for o in names:
        (tmp_path/'t'/o).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path/'t'/o).touch()
    found = photos_from_folder(tmp_path/'t')
    return [(r.label, r.split) for r in found.itertuples()]

@pytest.mark.parametrize('train,test', [
    ('training_set', 'test_set'), ('train_data', 'TestImages'), ('trainset', 'test-set'), ('Train', 'holdout')])
def test_usual_names_of_parts(tmp_path, train, test):
    "A network that learned to tell a training set from a test set would be a fine surprise"
    names = [f'{a}/{b}/a.jpg' for a in (test, train) for b in ('men', 'women')]
    assert sorted(tree(tmp_path, *names)) == [('men', 'test'), ('men', 'train'), ('women', 'test'), ('women', 'train')]

def test_classes_inside_other_folders(tmp_path):
    names = [f'{a}/{b}/a.jpg' for a in ('fold0', 'fold1') for b in ('Male', 'female')]
    with pytest.raises(ValueError, match='hold the classes, rather than being classes'): tree(tmp_path, *names)

def test_folders_of_a_network_drive_are_no_class(tmp_path):
    left_behind = '@eaDir/a.jpg', 'men/@eaDir/a.jpg/thumb.jpg', '$RECYCLE.BIN/b.jpg'
    assert tree(tmp_path, 'men/a.jpg', 'women/a.jpg', *left_behind) == [('men', ''), ('women', '')]

# what an application has in hand

class First(Classifier):
    "Always the first class"
    def __init__(self): super().__init__(dict(vocab=['men', 'women'], size=[16, 16], temperature=1., abstain=0.), '')
    def logits(self, x): return np.eye(2)[np.zeros(len(x), int)]

class Upload:
    "As FastAPI hands it over: reading is asynchronous, `file` is the open file"
    filename = 'a.jpg'
    def __init__(self, data): self.file = io.BytesIO(data)
    async def read(self, size=-1): return self.file.read(size)

class Place:
    def __init__(self, path): self.path = path
    def __fspath__(self): return str(self.path)

def test_everything_with_a_path_or_bytes_is_a_photo(photos):
    file = first(get_image_files(photos))
    entry = next(o for o in os.scandir(file.parent) if o.name == file.name)
    for o in (entry, Place(file), memoryview(file.read_bytes()), Upload(file.read_bytes())):
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            for given in (o, [o]): assert First().predict(given, progress=False).problem.tolist() == ['']
        if not isinstance(o, Upload): assert read_photo(o).size == (64, 64)
    assert First().predict(Place(photos), progress=False).shape == (20, 5)

def test_a_name_that_no_system_has_is_a_row(photos):
    answers = First().predict(['x'*9999, *get_image_files(photos)], progress=False)
    assert answers.problem.tolist() == ['File name too long', *['']*20]

def test_schemes_are_addresses():
    names = ['https://a.org/a.jpg', 'sftp://a/b.jpg', 'abfss://c@a/x.jpg', 'data:image/png;base64,aGk=']
    assert First().predict(names, progress=False).problem.tolist() == [not_fetched]*4

def test_devices_that_are_none(untrained):
    has = pytest.importorskip('onnxruntime').get_available_providers()
    if 'CUDAExecutionProvider' in has: pytest.skip('there is one')
    with pytest.raises(ValueError, match="^device='cuda' cannot be used: this onnxruntime has"):
        OnnxClassifier(untrained.with_suffix('.onnx'), 'cuda')
    assert "device='meta' cannot be used" in run('predict', untrained, untrained, '--device', 'meta', code=1).stderr

# forks

forked = '''
import multiprocessing, os, sys, warnings
from fastai.vision.all import *
from genderres.ready import ReadyClassifier
from genderres.data import gender_dls
from genderres.learner import gender_learner
photos, weights = map(Path, sys.argv[1:])
file = first(get_image_files(photos))
learn = gender_learner(gender_dls(photos, size=32, bs=8, num_workers=0), resnet18, weights)
learn.remove_cbs([learn.progress])
learn.logger = noop
learn.fit(1)
ready = ReadyClassifier()
answer = lambda clf: clf.predict(file, abstain=0., progress=False).men.tolist()
here = dict(ready=answer(ready), learn=learn.predict(file)[2].tolist())
ways = dict(ready=lambda: answer(ready), learn=lambda: learn.predict(file)[2].tolist(),
            load=lambda: answer(ReadyClassifier()), fit=lambda: learn.fit(1))
for k,way in ways.items():
    queue = multiprocessing.get_context('fork').SimpleQueue()
    child = multiprocessing.get_context('fork').Process(target=lambda: queue.put(way()), daemon=True)
    child.start()
    child.join(40)
    if child.exitcode != 0: sys.exit(f'{k}: no answer from a forked process, {child.exitcode}')
    assert k == 'fit' or np.allclose(queue.get(), here.get(k, here['ready']), atol=1e-4), k
'''

@pytest.mark.skipif('fork' not in multiprocessing.get_all_start_methods(), reason='this system does not fork')
def test_the_ready_classifier_and_a_learner_answer_in_a_fork(photos, weights):
    env = {**os.environ, 'OMP_NUM_THREADS': '2', 'OMP_WAIT_POLICY': 'passive'}   # one thread waits for none
    call = [sys.executable, '-W', 'ignore', '-c', forked, photos, weights]
    res = subprocess.run(call, env=env, capture_output=True, text=True, timeout=250)
    assert res.returncode == 0, res.stderr[-1000:]

# saving, losses

@pytest.fixture
def learn(photos, weights, tmp_path):
    learn = gender_learner(gender_dls(photos, size=32, bs=8, num_workers=0), resnet18, weights, path=tmp_path)
    learn.remove_cbs([learn.progress])
    learn.logger = noop
    learn.fit(1)
    return learn

full = '''
import os, resource, sys
from fastai.vision.all import *
from genderres.data import gender_dls
from genderres.learner import gender_learner
from genderres.experiment import save_results
from genderres.interpret import GenderInterpretation
photos, weights, out = map(Path, sys.argv[1:])
learn = gender_learner(gender_dls(photos, size=32, bs=8, num_workers=0), resnet18, weights, path=out)
learn.remove_cbs([learn.progress])
learn.logger = noop
learn.fit(1)
dls, opt, interp = learn.dls, learn.opt, GenderInterpretation.from_learner(learn)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
(out/'models').mkdir()
(out/'models'/'old.pth').write_text('old')
for name,f in dict(new=lambda: learn.save('new'), old=lambda: learn.save('old'), export=lambda: learn.export(),
                   model=lambda: learn.fit(1, cbs=SaveModelCallback()),
                   loss=lambda: save_results(learn, interp, out/'r')).items():
    try: f()
    except OSError as e: assert f'{name}.p' in str(e) and 'make room' in str(e), e
    else: sys.exit(f'{name} was written')
    assert learn.dls is dls and learn.opt is not None, name
assert (out/'models'/'old.pth').read_text() == 'old'
assert sorted(o.name for o in out.rglob('*')) == ['models', 'old.pth', 'r'], [*out.rglob('*')]
assert len(learn.get_preds()[0]) == len(dls.valid_ds)
'''

@pytest.mark.skipif(sys.platform == 'win32', reason='no limit for files there')
def test_a_full_disk_leaves_no_half_file_and_a_whole_learner(photos, weights, tmp_path):
    (tmp_path/'out').mkdir()
    call = [sys.executable, '-W', 'ignore', '-c', full, photos, weights, tmp_path/'out']
    res = subprocess.run(call, capture_output=True, text=True, timeout=200)
    assert res.returncode == 0, res.stderr[-1500:]

def test_save_takes_what_fastai_takes(learn, tmp_path):
    assert learn.save('a.b') == tmp_path/'models'/'a.b.pth'
    assert learn.save(tmp_path/'c', with_opt=False) == tmp_path/'c.pth'
    learn.save(f := io.BytesIO())
    for o in ('a.b', tmp_path/'c'): learn.load(o)
    assert f.tell() > 10**6
    learn.export(Path('d.pkl'))
    assert (tmp_path/'d.pkl').is_file() and [o for o in tmp_path.iterdir() if o.name.startswith('.')] == []

def test_an_export_that_fails_leaves_the_learner_whole(learn, tmp_path):
    learn.mine, dls = (o for o in ()), learn.dls   # cannot be exported
    with pytest.raises(TypeError, match='generator'): learn.export()
    assert learn.dls is dls and len(learn.get_preds()[0]) == len(dls.valid_ds)
    learn.fit(1)

misfits = [BCEWithLogitsLossFlat(), BCELossFlat(), MSELossFlat(), nn.BCEWithLogitsLoss(), nn.MSELoss()]

@pytest.mark.parametrize('loss', misfits, ids=lambda o: type(o).__name__)
def test_losses_that_do_not_fit_say_which_do(photos, weights, loss):
    dls = gender_dls(photos, size=32, bs=8, num_workers=0)
    says = 'does not fit: it gets 2 logits and the index of one class.* LabelSmoothingCrossEntropyFlat'
    with pytest.raises(ValueError, match=says): gender_learner(dls, resnet18, weights, loss_func=loss)

def test_weights_that_are_a_table_are_not_to_be_run(photos, tmp_path):
    (tmp_path/'w.csv').write_text('file,label\n')
    dls = gender_dls(photos, size=32, num_workers=0)
    with pytest.raises(ValueError, match='w.csv is not a readable weights file') as e:
        gender_learner(dls, resnet18, tmp_path/'w.csv')
    assert 'weights_only' not in str(e.value)

def test_answers_that_find_no_room_at_the_end_are_kept(photos, tmp_path, monkeypatch):
    def no_room(*args): raise OSError(28, 'a.csv cannot be written (No space left on device): make room')
    out = tmp_path/'a.csv'
    with monkeypatch.context() as m:
        m.setattr('genderres.predict.write_tables', no_room)
        with pytest.raises(OSError, match='make room. .*a.csv.part holds all answers: the same call continues'):
            predict_to_file(First(), photos, out, progress=False)
    assert (predict_to_file(First(), photos, out, progress=False).sum() == 20
            and not out.with_name('a.csv.part').exists())

@pytest.mark.parametrize('exclude,label,sep', [('Exclude', 'WOMEN', '/'), ('exclude', 'female', '\\')])
def test_decisions_in_words_of_ones_own(photos, tmp_path, exclude, label, sep):
    found = check_images(photos, verbose=False).sort_values('file', ignore_index=True)
    names = [str(Path(o).relative_to(tmp_path)).replace('/', sep) for o in found.file[:2]]
    pd.DataFrame(dict(Decision=[exclude, label], File=names)).to_csv(tmp_path/'d.csv', index=False)
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)   # no decision is about a photo that is not here
        decided = inspect_photos(photos_from_folder(photos), tmp_path/'d.csv')[0].sort_values('file', ignore_index=True)
    assert decided.problem[0] == 'excluded' and found.label[1] == 'men' and decided.label[1] == 'women'
