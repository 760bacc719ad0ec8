"A classifier's file may come from anybody, its photos from anywhere"
import io, json, pickle, subprocess, sys, time
from pathlib import Path
import numpy as np, pandas as pd, pytest, torch
from PIL import Image
from safetensors.torch import load_file, save_file
from safetensors import safe_open
from torchvision.models import resnet18
from genderres.classifier import GenderClassifier
from genderres.audit import Audit
from genderres.evaluate import evaluate
from genderres.data import gender_dls
from genderres.portraits import sample_portraits
from genderres.learner import gender_learner
from genderres.predict import OnnxClassifier, onnx_session, predict_to_file
from genderres.weights import read_portrait
try: import resource
except ImportError: resource = None   # Windows

def both(file): return GenderClassifier.load(file), OnnxClassifier(file.with_suffix('.onnx'))

# --- the file

def rewrite(file, out, **changes):
    "The classifier in `file` with other facts and a checksum that fits: what an attacker can make"
    with safe_open(file, 'pt') as f: facts = json.loads(f.metadata()['genderres'])
    facts.update(changes)
    facts = {k: v for k,v in facts.items() if v is not None}
    save_file(load_file(file), out, dict(genderres=json.dumps(facts), sha256='0'*64))
    return out

@pytest.mark.parametrize('changes,says', [
    (dict(format=99), 'pip install --upgrade genderres'), (dict(format='1'), 'does not say which format'),
    (dict(arch='os.system'), "architecture 'os.system'"), (dict(arch=7), 'arch'),
    (dict(arch='resnet34'), 'do not fit resnet34'), (dict(vocab=['men']), 'vocab'), (dict(vocab='men women'), 'vocab'),
    (dict(vocab=['a', 'b', 'c']), 'do not fit resnet18 with 3 classes'), (dict(size=[10**9, 10**9]), 'size'),
    (dict(size=32), 'size'), (dict(mean=[0, 0, float('nan')]), 'mean'), (dict(std=[0, 0, 0]), 'std'),
    (dict(temperature=0), 'temperature'), (dict(abstain=2), 'abstain'), (dict(trained=None), 'trained'),
    (dict(abstain=.5), 'altered')])
def test_facts_are_checked(untrained, tmp_path, changes, says):
    with pytest.raises(ValueError, match=says) as e:
        GenderClassifier.load(rewrite(untrained, tmp_path/'b.safetensors', **changes))
    assert 'b.safetensors' in str(e.value)

class Payload:
    def __init__(self, file): self.file = file
    def __reduce__(self): return (Path.touch, (self.file,))

@pytest.mark.parametrize('write', [lambda o,f: f.write_bytes(pickle.dumps(o)), lambda o,f: torch.save(o, f)])
def test_no_pickle_is_opened(tmp_path, write):
    for name in ('a.safetensors', 'a.pkl', 'a.pth'):
        write(Payload(tmp_path/'ran'), tmp_path/name)
        with pytest.raises(ValueError, match=f'{name} is a pickle'): GenderClassifier.load(tmp_path/name)
    assert not (tmp_path/'ran').exists()

@pytest.mark.parametrize('start', [b'\x80\x3b', b'\x80\2', b'PK'])
def test_cut_off_and_no_pickle(tmp_path, start):
    (tmp_path/'b.safetensors').write_bytes(start + bytes(6) + b'{"__metadata__":')
    with pytest.raises(ValueError, match='b.safetensors is damaged, cut off'):
        GenderClassifier.load(tmp_path/'b.safetensors')

@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float8_e4m3fn])
def test_tensors_of_other_types(untrained, tmp_path, dtype):
    with safe_open(untrained, 'pt') as f: meta = f.metadata()
    save_file({k: v.to(dtype) for k,v in load_file(untrained).items()}, tmp_path/'b.safetensors', meta)
    with pytest.raises(ValueError, match='b.safetensors: its tensors do not fit resnet18 .* type'):
        GenderClassifier.load(tmp_path/'b.safetensors')

def test_facts_too_deep(untrained, tmp_path, monkeypatch):
    deep = dict(genderres='{"format":'*5000 + '1' + '}'*5000)
    save_file(load_file(untrained), tmp_path/'b.safetensors', deep)
    with pytest.raises(ValueError, match='b.safetensors: its facts'): GenderClassifier.load(tmp_path/'b.safetensors')
    def dumps(*args): raise RecursionError   # the checksum goes a little deeper than the reading
    with monkeypatch.context() as m, pytest.raises(ValueError, match='a.safetensors: its facts are nested too deep'):
        m.setattr('genderres.classifier.classifier_digest', dumps)
        GenderClassifier.load(untrained)
    with pytest.raises(ValueError, match='b.safetensors is missing or damaged'): read_portrait(tmp_path/'b.safetensors')

def test_every_altered_byte_is_noticed(untrained, tmp_path):
    data, rng = untrained.read_bytes(), np.random.default_rng(0)
    head = int.from_bytes(data[:8], 'little')
    for i in [*rng.integers(0, 8 + head, 20), *rng.integers(8 + head, len(data), 5)]:
        (tmp_path/'b.safetensors').write_bytes(data[:i] + bytes([data[i] ^ 4]) + data[i+1:])
        with pytest.raises(ValueError, match='b.safetensors'): GenderClassifier.load(tmp_path/'b.safetensors')

@pytest.mark.parametrize('share', [0, .00001, .5, .9999])
def test_truncated(untrained, tmp_path, share):
    data = untrained.read_bytes()
    (tmp_path/'b.safetensors').write_bytes(data[:int(share*len(data))])
    with pytest.raises(ValueError, match='damaged, cut off'): GenderClassifier.load(tmp_path/'b.safetensors')

def test_saving_replaces_only_when_told(untrained, tmp_path):
    clf = GenderClassifier.load(untrained)
    (tmp_path/'b.safetensors').write_text('mine')
    with pytest.raises(FileExistsError, match='b.safetensors exists'): clf.save(tmp_path/'b.safetensors')
    assert (tmp_path/'b.safetensors').read_text() == 'mine'
    assert GenderClassifier.load(clf.save(tmp_path/'b.safetensors', overwrite=True)).digest == clf.digest
    with pytest.raises(FileNotFoundError, match='no folder .*nowhere'): clf.save(tmp_path/'nowhere'/'b.safetensors')
    with pytest.raises(ValueError, match='ends in .safetensors'): clf.save(tmp_path/'b.pkl')

@pytest.mark.skipif(sys.platform == 'win32', reason='no limits on file sizes there')
def test_full_disk_leaves_nothing(untrained, tmp_path):
    clf, old = GenderClassifier.load(untrained), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, old[1]))
    try:
        with pytest.raises(OSError): clf.save(tmp_path/'b.safetensors')
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert not list(tmp_path.iterdir())

def test_a_missing_gpu_is_no_fault_of_the_file(untrained, monkeypatch):
    monkeypatch.setattr(OnnxClassifier, '_provider', lambda self, device: 'CUDAExecutionProvider')
    monkeypatch.setattr('genderres.predict.onnx_session', lambda model, provider: onnx_session(model))
    with pytest.raises(ValueError, match="^device='cuda' cannot be used"):
        OnnxClassifier(untrained.with_suffix('.onnx'), 'cuda')

def test_onnx_that_is_none_of_ours(untrained, tmp_path):
    import onnx
    model = onnx.load(untrained.with_suffix('.onnx'))
    del model.metadata_props[:]
    onnx.save(model, tmp_path/'foreign.onnx')
    with pytest.raises(ValueError, match='foreign.onnx'): OnnxClassifier(tmp_path/'foreign.onnx')
    (tmp_path/'cut.onnx').write_bytes(untrained.with_suffix('.onnx').read_bytes()[:10**6])
    with pytest.raises(ValueError, match='cut.onnx is not an ONNX file'): OnnxClassifier(tmp_path/'cut.onnx')
    with pytest.raises(ValueError, match="device='abacus'.*cpu"):
        OnnxClassifier(untrained.with_suffix('.onnx'), 'abacus')

# --- predictions

def test_awkward_files_have_a_row_each(untrained, awkward):
    path, known = awkward
    for clf in both(untrained):
        answers = clf.predict(path, batch_size=7)
        assert sorted(answers.file) == sorted(known)
        assert {r.file: r.problem == '' for r in answers.itertuples()} == known
        assert ((answers.label == '') == (answers.problem != '')).all()
        assert (answers[clf.vocab].isna().all(axis=1) == (answers.problem != '')).all()
        assert np.allclose(answers[clf.vocab].sum(axis=1)[answers.problem == ''], 1)
        listed = clf.predict([*known, 'nowhere.jpg', path/'deep'/'nothing', '', 'a\0b'], batch_size=64)
        assert listed.file[:len(known)].tolist() == [*known] and (listed.problem[len(known):] != '').sum() >= 2

@pytest.mark.parametrize('ending', ['csv', 'parquet'])
def test_awkward_names_survive_in_files(untrained, awkward, tmp_path, ending):
    path, known = awkward
    clf, out = both(untrained)[1], tmp_path/f'a.{ending}'
    counts = predict_to_file(clf, path, out, batch_size=10)
    as_written = dict(encoding_errors='surrogateescape', keep_default_na=False, dtype=dict(file=object),
                      lineterminator='\n')
    read = (pd.read_parquet(out) if ending == 'parquet'
            else pd.read_csv(out, na_values={o: [''] for o in clf.vocab}, **as_written))
    straight = clf.predict(path, batch_size=10)
    want = [o.encode('utf-8', 'backslashreplace').decode() if ending == 'parquet' else o for o in straight.file]
    assert read.file.tolist() == want
    for o in ('label', 'problem'): assert read[o].tolist() == straight[o].tolist()
    assert counts[''] == sum(not o for o in known.values()) and counts.sum() == len(known)

def test_all_kinds_of_input_agree(untrained, photos):
    clf = GenderClassifier.load(untrained)
    file = next((photos/'men').iterdir())
    im = Image.open(file).convert('RGB')
    many = clf.predict([file, str(file), file.read_bytes(), im, np.asarray(im)])
    assert np.ptp(many[clf.vocab].values, axis=0).max() < 1e-6 and (many.label != '').all()
    for one in (file, str(file), file.read_bytes(), im, np.asarray(im), np.asarray(im)[None], (o for o in [file])):
        assert np.allclose(clf.predict(one)[clf.vocab], many[clf.vocab][:1], atol=1e-6)

def test_no_input(untrained, tmp_path):
    clf = GenderClassifier.load(untrained)
    for none in ([], iter([]), np.zeros((0, 4, 4, 3), np.uint8)):
        with pytest.raises(ValueError, match='no photo was given'): clf.predict(none)
    with pytest.raises(ValueError, match='no photo was given'): predict_to_file(clf, iter([]), tmp_path/'a.csv')
    (tmp_path/'bare').mkdir()
    assert clf.predict(tmp_path/'bare').problem.tolist() == ['a folder']
    assert [o.name for o in tmp_path.iterdir()] == ['bare']

def test_open_files_are_photos(untrained, photos):
    files = sorted((photos/'men').iterdir())[:3]
    for clf in both(untrained):
        want = clf.predict(files)
        with open(files[0], 'rb') as f, open(files[1], 'rb') as g:
            f.read(99)   # the position does not matter
            many = clf.predict([f, g, io.BytesIO(files[2].read_bytes()), f], batch_size=2)
            one, again = clf.predict(f), clf.predict(o for o in [f])
        assert many.file.tolist() == [str(files[0]), str(files[1]), '', str(files[0])] and (many.problem == '').all()
        assert (np.allclose(many[clf.vocab][:3], want[clf.vocab])
                and np.allclose(many[clf.vocab][3:], want[clf.vocab][:1]))
        assert len(one) == len(again) == 1 and np.allclose(one[clf.vocab], want[clf.vocab][:1])
        assert clf.predict([f, files[0]]).problem.tolist() == [
            'the file cannot be read: I/O operation on closed file', '']
        with pytest.raises(TypeError, match="mode 'rb'"), open(files[0], encoding='latin1') as f: clf.predict(f)

@pytest.mark.parametrize('wrong', [None, 5, 1.5, object(), [None], [['a.jpg']], ['a.jpg', float('nan')],
                                   ({} for _ in range(1))])
def test_what_is_no_photo(untrained, wrong):
    clf = both(untrained)[1]
    with pytest.raises(TypeError, match="is not a photo: pass a path, bytes, a file opened with mode 'rb'"):
        clf.predict(wrong)

def test_addresses_are_not_fetched(untrained, photos, monkeypatch):
    monkeypatch.setattr('socket.socket', None)
    file = next((photos/'men').iterdir())
    answers = both(untrained)[1].predict(['https://example.org/a.jpg', Path('HTTP://example.org/a.jpg'),
                                          's3://bucket/a.jpg', file])
    assert answers.problem.tolist() == ['an address: addresses are not fetched']*3 + ['']

def test_names_in_an_array(untrained, photos):
    clf, files = both(untrained)[1], sorted((photos/'men').iterdir())
    names = np.array([str(o) for o in files])
    assert clf.predict(names).file.tolist() == clf.predict(names.astype(object)).file.tolist() == [*names]

slow_run = '''
import sys, time
from genderres.predict import OnnxClassifier, predict_to_file
class Slow(OnnxClassifier):
    def logits(self, x):
        time.sleep(.2)
        return super().logits(x)
predict_to_file(Slow(sys.argv[1]), sys.argv[2], sys.argv[3], batch_size=2, progress=False)'''

def run_until(lines, clf, photos, out):
    "A process that writes answers slowly and has written so many lines of its journal"
    run, part = subprocess.Popen([sys.executable, '-c', slow_run, clf, photos, out]), out.with_name(out.name + '.part')
    end = time.time() + 60
    while not part.exists() or part.read_bytes().count(b'\n') < lines:
        assert run.poll() is None and time.time() < end
        time.sleep(.01)
    return run

def test_one_output_one_run_and_no_photo(untrained, photos, tmp_path):
    "The output is among the photos; a second run is refused, and continues when the first was killed"
    onnx, out = untrained.with_suffix('.onnx'), photos/'answers.csv'
    clf = OnnxClassifier(onnx)
    predict_to_file(clf, photos, tmp_path/'straight.csv', batch_size=2)
    run = run_until(3, onnx, photos, out)
    for overwrite in (False, True):
        with pytest.raises(BlockingIOError, match='another run is writing .*answers.csv.part'):
            predict_to_file(clf, photos, out, batch_size=2, overwrite=overwrite)
    assert run.poll() is None
    run.kill()
    run.communicate()
    done = out.with_name('answers.csv.part').read_bytes()
    with pytest.raises(FileExistsError, match='unfinished work'): predict_to_file(clf, photos, out, batch_size=3)
    assert out.with_name('answers.csv.part').read_bytes() == done
    for overwrite in (False, True):   # once more, with the answers of the first call in the folder
        predict_to_file(clf, photos, out, batch_size=2, overwrite=overwrite)
        assert out.read_bytes() == (tmp_path/'straight.csv').read_bytes()
        assert {o.name for o in photos.iterdir()} == {'men', 'women', 'answers.csv'}

def test_listed_output_is_no_photo(untrained, photos, tmp_path):
    "As a shell expands photos/* in a call that continues"
    clf, out = both(untrained)[1], photos/'a.csv'
    out.write_text('file\n')
    counts = predict_to_file(clf, [photos/'men', out, photos/'a.csv.part'], out, overwrite=True)
    assert counts.sum() == 10 and '' not in counts
    with pytest.raises(ValueError, match='no photo was given'): predict_to_file(clf, [out], out, overwrite=True)

def test_vanishing_files(untrained, photos):
    def files():
        for o in sorted(photos.rglob('*.jpg')):
            o.unlink()
            yield o
    answers = GenderClassifier.load(untrained).predict(files())
    assert len(answers) == 20 and set(answers.problem) == {'no such file'}

def test_outputs_that_cannot_be(untrained, photos, tmp_path):
    clf = both(untrained)[1]
    for out,error,says in [('a.txt', ValueError, 'csv or .parquet'), ('nowhere/a.csv', FileNotFoundError, 'no folder'),
                           ('photos', ValueError, 'csv or'), ('d.csv', IsADirectoryError, 'is a folder')]:
        (tmp_path/'d.csv').mkdir(exist_ok=True)
        with pytest.raises(error, match=says): predict_to_file(clf, photos, tmp_path/out)
    (tmp_path/'e.csv').write_text('mine')
    with pytest.raises(FileExistsError, match='e.csv exists'): predict_to_file(clf, photos, tmp_path/'e.csv')
    assert (tmp_path/'e.csv').read_text() == 'mine'
    predict_to_file(clf, photos, tmp_path/'e.csv', overwrite=True)
    assert len(pd.read_csv(tmp_path/'e.csv')) == 20

def limited(kind, room, code, *args):
    "Run Python `code` after its imports, with `room` bytes more of memory, or files of `room` bytes at most"
    pre = 'import resource, sys; from genderres.predict import *\n' + (
          'import psutil; from genderres.classifier import GenderClassifier; clf = GenderClassifier.load(sys.argv[1])\n'
          if kind == 'AS' else 'clf = OnnxClassifier(sys.argv[1])\n')
    now = "psutil.Process().memory_info().vms" if kind == 'AS' else '0'
    lim = f'resource.setrlimit(resource.RLIMIT_{kind}, ({now} + {room},)*2)\n'
    return subprocess.run([sys.executable, '-c', pre + lim + code, *map(str, args)], capture_output=True, text=True)

@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='limits of memory work differently elsewhere')
def test_too_little_memory_halves_the_batch(untrained, tmp_path):
    "A process with 300 MB to spare, and a batch that needs gigabytes"
    clf, x = (GenderClassifier.load(untrained),
              np.random.default_rng(0).integers(0, 255, (4096, 32, 32, 3), dtype=np.uint8))
    np.save(tmp_path/'x.npy', x)
    code = 'import numpy as np; np.save(sys.argv[3], clf.probabilities(np.load(sys.argv[2], mmap_mode="r")))'
    res = limited('AS', 300*10**6, code, untrained, tmp_path/'x.npy', tmp_path/'p.npy')
    assert res.returncode == 0, res.stderr
    assert '4096 photos at once do not fit into memory: from here on 2048' in res.stderr
    assert np.allclose(np.load(tmp_path/'p.npy'), clf.probabilities(x), atol=1e-5)

@pytest.mark.skipif(sys.platform == 'win32', reason='no limits on file sizes there')
def test_full_disk_loses_nothing(untrained, tmp_path):
    onnx, photos, out = untrained.with_suffix('.onnx'), sample_portraits(tmp_path/'p', n=300, size=32), tmp_path/'a.csv'
    predict_to_file(OnnxClassifier(onnx), photos, tmp_path/'straight.csv', batch_size=16)
    res = limited('FSIZE', 9_000, 'predict_to_file(clf, sys.argv[2], sys.argv[3], batch_size=16)', onnx, photos, out)
    assert res.returncode == 1 and 'make room and give the same call' in res.stderr.splitlines()[-1]
    kept = len((tmp_path/'a.csv.part').read_bytes())
    assert kept > 5_000 and not out.exists()
    predict_to_file(OnnxClassifier(onnx), photos, out, batch_size=16)
    assert out.read_bytes() == (tmp_path/'straight.csv').read_bytes() and not (tmp_path/'a.csv.part').exists()

def test_three_classes_in_any_order(tmp_path):
    who = lambda o: ('men', 'women', 'children')[int(o.name[:5]) % 3]
    photos = sample_portraits(tmp_path/'p', n=30, size=64)
    learn = gender_learner(gender_dls(photos, who, size=32, bs=8, num_workers=0), resnet18, None)
    clf = learn.to_classifier()
    back = GenderClassifier.load(clf.save(tmp_path/'three.safetensors'))
    assert back.predict(photos).columns.tolist() == ['file', 'label', 'children', 'men', 'women', 'problem']
    assert set(evaluate(back, photos, label_func=who).problem) == {'', 'was trained on'}
    # the same network with its outputs in another order
    order = [2, 0, 1]
    state = {k: v[order] if k == [*clf.model.state_dict()][-1] else v for k,v in clf.model.state_dict().items()}
    other = GenderClassifier(state, {**clf.facts, 'vocab': [clf.vocab[i] for i in order]})
    a, b = clf.predict(photos), other.predict(photos)
    assert a.label.tolist() == b.label.tolist() and np.allclose(a[clf.vocab], b[clf.vocab], atol=1e-6)

def test_training_photos_are_known_under_any_name(untrained, tmp_path):
    clf = GenderClassifier.load(untrained)
    photos = untrained.parent/'photos'
    moved = tmp_path/'moved'
    for i,o in enumerate(sorted(photos.rglob('*.jpg'))):
        (moved/o.parent.name).mkdir(parents=True, exist_ok=True)
        (moved/o.parent.name/f'{i}.jpg').write_bytes(o.read_bytes())
    trained, rest = (clf.facts['trained']['photos'][o] for o in ('train', 'valid'))
    trained, rest = sum(trained.values()), sum(rest.values())
    assert evaluate(clf, moved).problem.value_counts().to_dict() == {'was trained on': trained, '': rest}
    seen = evaluate(clf, moved)
    assert 'no answer counted as wrong' not in repr(Audit(seen, clf.vocab))   # nobody asked about the others
    for o in seen.file[seen.problem == '']: Path(o).unlink()
    with pytest.raises(ValueError, match=f'nothing to evaluate on: of {trained} photos, {trained}'):
        evaluate(clf, moved)

def test_photos_of_one_person_count_together(untrained):
    clf = GenderClassifier.load(untrained)
    files = sorted((untrained.parent/'photos').rglob('*.jpg'))
    table = pd.DataFrame(dict(file=[*map(str, files)], label=[o.parent.name for o in files]))
    alone, persons = (evaluate(clf, o) for o in (table, table.assign(person=[f'p{i%2}' for i in range(len(files))])))
    assert 'group' not in alone and {*persons.group} == {'p0', 'p1'}
    a, b = (len({*Audit(o, clf.vocab).interp.group}) for o in (alone, persons))
    assert b < a == (alone.problem == '').sum()
