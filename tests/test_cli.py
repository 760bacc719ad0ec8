"The shell: what it prints, how it ends, and what survives a kill"
import io, json, os, re, shutil, signal, subprocess, sys, time
from pathlib import Path
import numpy as np, pandas as pd, pytest
from genderres.classifier import GenderClassifier
from genderres.cli import app, main
from genderres.portraits import sample_portraits
from PIL import Image
from typer.testing import CliRunner

exe = Path(sys.executable).parent/('genderres.exe' if sys.platform == 'win32' else 'genderres')
unix = pytest.mark.skipif(sys.platform == 'win32', reason='signals work differently there')

def start(*args, **kwargs):
    "The command in a process of its own"
    return subprocess.Popen([exe, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs)

def run(*args, code=0):
    "The command in this process, which has imported PyTorch before"
    res = CliRunner().invoke(app, [*map(str, args)])
    assert res.exit_code == code, res.output
    assert 'Traceback' not in res.stderr
    return res

def go(*args): return json.loads(run(*args, '--json').stdout)

def test_help_has_an_example_for_each_verb():
    out = run('--help').stdout
    for verb in ('check', 'train', 'evaluate', 'predict', 'export', 'info', 'demo'):
        assert verb in out
        assert f'Example: genderres {verb}' in run(verb, '--help').stdout

def test_onnx_needs_no_torch(untrained, photos):
    code = ("import sys; sys.argv = ['genderres', 'predict', *sys.argv[1:]]\nfrom genderres.cli import main\n"
            "assert 'torch' not in sys.modules and 'pandas' not in sys.modules   # so that --help is quick\n"
            "try: main()\nexcept SystemExit as e: assert not e.code, e.code\n"
            "assert 'torch' not in sys.modules and 'fastai' not in sys.modules")
    res = subprocess.run([sys.executable, '-c', code, untrained.with_suffix('.onnx'), photos, '--json'],
                         capture_output=True, text=True)
    assert res.returncode == 0, res.stderr
    rows = json.loads(res.stdout)
    assert len(rows) == 20 and set(rows[0]) == {'file', 'label', 'men', 'women', 'problem'}

def test_the_whole_way(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sample_portraits(tmp_path/'photos', n=40, size=64)
    shutil.copytree(tmp_path/'photos', tmp_path/'other')
    assert go('check', 'photos')['usable'] == dict(men=20, women=20)
    train = start('train', 'photos', '-o', 'm.safetensors', '--size', 32, '--batch-size', 8, '--epochs', 1,
                  '--licence', 'mine', '--json')
    out, err = train.communicate(timeout=300)   # in a process of its own, where libraries may write past sys.stdout
    assert train.returncode == 0, err
    assert 'train_loss' in err and not {*'\r█'} & {*err}   # a log, not a terminal
    res = json.loads(out)
    assert sum(sum(o.values()) for o in res['photos'].values()) == 40
    assert {o.name for o in (tmp_path/'m').iterdir()} == {
        'report.html', 'loss.png', 'learning_rate.png', 'confusion_matrix.png', 'top_losses.png', 'top_losses.csv',
        'split.csv', 'epochs.csv', 'scores.csv'}
    facts = go('info', 'm.safetensors')
    assert facts['trained']['licence'] == 'mine' and facts['trained']['scores'] == res['scores']
    judged = go('evaluate', 'm.safetensors', 'other')['scores']   # of the same photos, and more of them
    assert ({k: (judged[k]['right'], judged[k]['n']) for k in res['scores']}
            == {k: (o['right'], o['n']) for k,o in res['scores'].items()})
    made = go('export', 'm.safetensors', '-o', 'm.onnx', '--photos', 'photos')
    assert made['photos'] == made['same_label'] == 40 and made['largest_difference'] < 1e-4
    assert (go('predict', 'm.onnx', 'photos', '-o', 'a.csv')
            == {**go('predict', 'm.safetensors', 'photos', '-o', 'b.csv'), 'output': 'a.csv'})
    assert go('predict', 'm.safetensors', 'photos', '--rapid', '-o', 'b.csv', '--overwrite')['photos'] == 40
    assert '--rapid is for .safetensors' in run('predict', 'm.onnx', 'photos', '--rapid', code=2).stderr
    assert sorted(o.name for o in tmp_path.iterdir()) == [
        'a.csv', 'b.csv', 'm', 'm.onnx', 'm.safetensors', 'other', 'photos']

@pytest.mark.parametrize('args,code,says', [
    (['predict', 'MODEL', 'nowhere.jpg'], 1, 'none of these photos has an answer'),
    (['predict', 'MODEL'], 2, 'name the photos after it'),
    (['predict', 'nowhere.onnx', 'photos'], 2, 'does not exist'),
    (['predict', '--model', '.', 'photos'], 2, '. is a folder, not a classifier'),
    (['evaluate', '.', '.'], 2, '. is a folder, not a classifier'),
    (['predict', 'MODEL', 'photos', '-o', 'nowhere/a.csv'], 2, 'no folder nowhere'),
    (['predict', 'MODEL', 'photos', '-o', 'a.doc'], 2, 'must end in .csv or .parquet'),
    (['predict', 'MODEL', 'photos', '--abstain', '7'], 2, '--abstain'),
    (['predict', 'MODEL', 'photos', '--batch-size', '0'], 2, 'batch-size'),
    (['predict', 'MODEL', 'photos', '--device', 'abacus'], 1, "device='abacus'"),
    (['predict', 'MODEL', 'photos', '-o', '/proc/a.csv'], 2, '/proc/a.csv cannot be written'),
    (['predict', 'text.onnx', 'photos'], 1, 'text.onnx is not an ONNX file'),
    (['predict', 'text.safetensors', 'photos'], 1, 'text.safetensors is damaged'),
    (['info', 'text.onnx'], 1, 'text.onnx'), (['sing'], 2, "No such command 'sing'"),
    (['check', 'photos/men'], 1, 'has no class folders'),
    (['train', 'photos', '-o', 'a.pkl'], 2, 'must end in .safetensors'),
    (['train', 'photos', '-o', 'A.SAFETENSORS'], 2, 'must end in .safetensors'),
    (['train', 'photos', '-o', 'photos/a.safetensors'], 2, '-o a.safetensors'),
    (['train', 'photos', '-o', 'photos.safetensors', '--overwrite'], 2, '-o photos-classifier.safetensors'),
    (['train', 'photos', '-o', 'a.safetensors', '--weights', 'moon'], 1, "weights='moon'"),
    (['export', 'text.safetensors', '-o', 'a.onnx', '--int8'], 2, '--int8 needs --photos'),
    (['export', 'MODEL', '-o', 'b.onnx'], 2, 'is ONNX already')])
def test_errors_say_what_to_do(untrained, photos, tmp_path, monkeypatch, args, code, says):
    if '/proc' in str(args) and not os.path.isdir('/proc'): pytest.skip('no /proc here')
    monkeypatch.chdir(tmp_path)
    for o in ('text.onnx', 'text.safetensors'): (tmp_path/o).write_text('no classifier')
    before = sorted(tmp_path.rglob('*'))
    res = run(*[o.replace('MODEL', str(untrained.with_suffix('.onnx'))) for o in args], code=code)
    lines = [o for o in res.stderr.splitlines() if o.startswith(('genderres: ', 'Error: '))]
    assert len(lines) == 1 and says.lower() in lines[0].lower() and not res.stdout
    assert sorted(tmp_path.rglob('*')) == before

def test_training_in_the_folder_of_the_photos(photos, monkeypatch):
    monkeypatch.chdir(photos)
    assert '-o ../mine.safetensors' in run('train', '.', '-o', 'mine.safetensors', code=2).stderr
    assert sorted(o.name for o in photos.iterdir()) == ['men', 'women']

@pytest.mark.parametrize('name', ['label', 'problem', 'file', 'unsure', 'group', 'Prediction', 'PROBLEM', 'Unsure'])
def test_names_that_no_class_can_have(photos, tmp_path, monkeypatch, name):
    def never(*args, **kwargs): raise AssertionError('it must be refused before the training')
    monkeypatch.setattr('genderres.experiment.run_experiment', never)
    (photos/'men').rename(photos/name)
    err = run('train', photos, '-o', tmp_path/'a.safetensors', code=1).stderr
    assert f'a class cannot be named {name}' in err and 'Rename' in err

def test_a_few_of_each_kind(photos, untrained, tmp_path):
    "Many photos with one oddity do not hide the others, and one photo is not one photos"
    rng = np.random.default_rng(0)
    for i in range(30): Image.fromarray(rng.integers(0, 255, (40, 40, 3), np.uint8)).save(photos/'men'/f'{i}.png')
    (photos/'men'/'cut.jpg').write_bytes(b'\xff\xd8\xff')
    out = run('check', photos).stdout
    listed = out.split('odd, and used')[1]
    assert listed.count('40 x 40 pixels') == 3 and '... and 27 more tiny' in listed and 'cut.jpg: ' in out
    pd.DataFrame(dict(file=[photos/'men'/o for o in ('1.png', 'cut.jpg')], label='men')).to_csv(
        tmp_path/'two.csv', index=False)
    out = run('evaluate', untrained, tmp_path/'two.csv').stdout
    assert out.startswith('On 1 photo:') and 'Left out: 1 (' in out

def test_info_in_columns():
    out = run('info').stdout
    assert re.search(r'\n    FairFace test, all  +[\d,]+ of 3,000 right, \d\d\.\d% \(\d\d\.\d% to \d\d\.\d%\)', out)
    assert len({o.index(o.split('  ')[-1].strip()) for o in out.splitlines() if ' right, ' in o}) == 1
    assert re.search(r'\n  labels +presented gender', out)

def test_output_in_another_encoding(photos, monkeypatch):
    said = io.TextIOWrapper(io.BytesIO(), 'cp1252')
    monkeypatch.setattr('sys.stdout', said)
    monkeypatch.setattr('sys.argv', ['genderres', 'check', str(photos.rename(photos.with_name('→')))])
    with pytest.raises(SystemExit) as e: main()
    said.flush()
    assert not e.value.code and b'\\u2192: 20 files' in said.buffer.getvalue()

def test_rapid_takes_the_gpu_that_is_there(photos, monkeypatch):
    def ready(device=None): raise ValueError(f'device {device}')
    monkeypatch.setattr(GenderClassifier, 'ready', ready)
    assert 'device None' in run('predict', photos, '--rapid', code=1).stderr
    assert 'device cpu' in run('predict', photos, '--rapid', '--device', 'cpu', code=1).stderr

def test_addresses_arrive_as_typed(photos, untrained, tmp_path, monkeypatch):
    "No slash is lost, and what is not here is not looked for here"
    given = []
    def predict(model, source, output, address, *args, **kwargs):
        given[:] = model, source, output, address
        return pd.Series(dict(men=1))
    monkeypatch.setattr('genderres.scale.predict_dataset', predict)
    far = ['https://h/get?u=http://x/a.jpg', 's3://b/a//b.jpg']
    said = run('predict', '--model', 's3://m/x.safetensors', *far, photos, '-o', 'file:///mnt/answers', '--ray', 'auto')
    assert given == ['s3://m/x.safetensors', [*far, photos], 'file:///mnt/answers', 'auto']
    assert 'The answers are in file:///mnt/answers' in said.stdout
    run('predict', 's3://m//x.onnx', far[1], '-o', tmp_path/'out', '--ray', 'local')
    assert given == ['s3://m//x.onnx', far[1:], tmp_path/'out', 'local']
    assert 'does not exist' in run('predict', 'nowhere.onnx', far[1], '-o', 'out', '--ray', 'local', code=2).stderr
    assert 'download it' in run('predict', 's3://m/x.onnx', photos, code=2).stderr
    assert 'goes with --ray' in run('predict', photos, '-o', 's3://answers/a.csv', code=2).stderr
    rows = go('predict', untrained.with_suffix('.onnx'), far[0], photos)
    assert rows[0]['file'] == far[0] and 'addresses are not fetched' in rows[0]['problem'] and len(rows) == 21
    assert f'say --camera {far[1]}' in run('count', far[1], code=2).stderr

def test_no_cluster_here(photos, tmp_path, monkeypatch):
    "auto is for a cluster that runs, and the error says how to start one"
    ray, asked = pytest.importorskip('ray'), []
    def init(address, **kwargs):
        asked.append(address)
        raise ConnectionError('Could not find any running Ray instance. Please specify the one to connect to by '
                              'setting the `--address` flag or `RAY_ADDRESS` environment variable.')
    monkeypatch.setattr(ray, 'init', init)
    monkeypatch.setattr(ray, 'is_initialized', lambda: False)
    fails = lambda: run('predict', photos, '-o', tmp_path/'out', '--ray', 'auto', code=1).stderr
    monkeypatch.delenv('RAY_ADDRESS', raising=False)
    err = fails()
    assert asked == ['auto'] and 'no Ray cluster here' in err and '`ray start --head`' in err and '--address' not in err
    monkeypatch.setenv('RAY_ADDRESS', '127.0.0.1:9')   # Ray would try for minutes
    assert 'no Ray cluster answers at 127.0.0.1:9' in fails() and asked == ['auto']

def test_training_photos_that_are_not_known(photos, untrained):
    assert 'does not say which photos it was trained on' in go('evaluate', photos)['notes'][0]
    assert 'does not say' not in run('evaluate', untrained, photos).stdout
    assert 'as filed' not in run('predict', untrained, photos).stdout

def test_debug_shows_the_traceback(photos):
    res = CliRunner().invoke(app, ['--debug', 'check', str(photos/'men')])
    assert isinstance(res.exception, ValueError) and 'has no class folders' in str(res.exception)

def wait_for(cond, p, seconds=60):
    end = time.time() + seconds
    while time.time() < end and p.poll() is None and not cond(): time.sleep(.005)

def lines(file): return file.read_bytes().count(b'\n') if file.exists() else 0

@unix
def test_killed_and_interrupted(untrained, tmp_path):
    "SIGKILL, then Ctrl-C; then the answers are those of an undisturbed run, byte for byte"
    photos, out = sample_portraits(tmp_path/'p', n=300, size=64), tmp_path/'a.csv'
    args = ['predict', untrained.with_suffix('.onnx'), *[photos]*12, '--batch-size', 8]
    run(*args, '-o', tmp_path/'straight.csv')
    part, at = tmp_path/'a.csv.part', 0
    for sig,code in (signal.SIGKILL, -9), (signal.SIGINT, 130):
        p = start(*args, '-o', out)
        wait_for(lambda: lines(part) > at + 20, p)
        p.send_signal(sig)
        _, err = p.communicate(timeout=60)
        assert p.returncode == code and not out.exists()
        at = lines(part)
        assert at < 450, 'it must be interrupted before the end'
    assert 'the same command continues' in err and 'Traceback' not in err
    run(*args, '-o', out)
    assert out.read_bytes() == (tmp_path/'straight.csv').read_bytes() and not part.exists()
    assert len(pd.read_csv(out)) == 3600

@unix
def test_training_interrupted_leaves_nothing(photos, tmp_path):
    p = start('train', 'photos', '-o', 'm.safetensors', '--size', 32, '--batch-size', 8, '--epochs', 500, cwd=tmp_path)
    seen = ''
    while '\n0 ' not in seen and p.poll() is None: seen += p.stderr.read(1)
    p.send_signal(signal.SIGINT)
    _, err = p.communicate(timeout=60)
    assert p.returncode == 130 and 'the same command starts again' in err and 'Traceback' not in err
    assert [o.name for o in tmp_path.iterdir()] == ['photos']

def test_split_and_decisions(photos, tmp_path, monkeypatch):
    "The split of one training is that of the next; what was excluded is in neither part"
    monkeypatch.chdir(tmp_path)
    few = ['train', 'photos', '--size', 32, '--batch-size', 8, '--epochs', 1]
    go(*few, '-o', 'a.safetensors')
    first = pd.read_csv(tmp_path/'a'/'split.csv')
    assert len(first) == 20 and all((tmp_path/'a'/o).is_file() for o in first.file)
    (tmp_path/'review.csv').write_text(f'file,decision\n{Path(first.file[0]).relative_to("..")},exclude\n')
    res = go(*few, '-o', 'b.safetensors', '--split', 'a/split.csv', '--seed', 7, '--decisions', 'review.csv')
    second = pd.read_csv(tmp_path/'b'/'split.csv')
    assert second.set_index('id').split.to_dict() == first[1:].set_index('id').split.to_dict() and res['left_out'] == 1
    assert 'no such file' in run(*few, '-o', 'c.safetensors', '--split', 'nowhere.csv', code=1).stderr
