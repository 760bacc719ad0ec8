"The service of the docs: what it answers, what it refuses, and workers that are forked"
import io, json, os, shutil, socket, struct, subprocess, sys, time, zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
import numpy as np, pytest
from genderres.classifier import GenderClassifier
from genderres.portraits import draw_portrait
pytest.importorskip('fastapi')
from starlette.testclient import TestClient

page = Path(__file__).parent.parent/'nbs/tutorials/serve.ipynb'

@pytest.fixture
def folder(untrained, tmp_path):
    "A folder with the service as the page shows it, and classifiers for it"
    source = next(s for s in map(''.join, (o['source'] for o in json.loads(page.read_text())['cells']))
                  if s.startswith('%%writefile service.py\n'))
    assert len(source.splitlines()) <= 31
    (tmp_path/'service.py').write_text(source.partition('\n')[2])
    shutil.copy(untrained, tmp_path/'mine.safetensors')
    shutil.copy(untrained.with_suffix('.onnx'), tmp_path/'mine.onnx')
    return tmp_path

@pytest.fixture
def service(folder, monkeypatch):
    monkeypatch.chdir(folder)
    spec = spec_from_file_location('service', folder/'service.py')
    spec.loader.exec_module(module := module_from_spec(spec))
    return module

@pytest.fixture(scope='module')
def photo():
    f = io.BytesIO()
    draw_portrait('men', np.random.default_rng(0), 200).save(f, 'JPEG')
    return f.getvalue()

def bomb():
    parts = ((b'IHDR', struct.pack('>IIBBBBB', 60000, 60000, 8, 2, 0, 0, 0)),
             (b'IDAT', zlib.compress(bytes(10**6))), (b'IEND', b''))
    return b'\x89PNG\r\n\x1a\n' + b''.join(
        struct.pack('>I', len(d)) + k + d + struct.pack('>I', zlib.crc32(k + d)) for k,d in parts)

def test_answers(service, photo):
    client = TestClient(service.app)
    want = GenderClassifier.load('mine.safetensors', 'cpu').predict(photo).iloc[0]
    for name in ('a.jpg', 'http://a.example/a.jpg', '../../a', '', '<script>.jpg'):   # names mean nothing
        res = client.post('/predict', files={'photo': (name or 'x', photo)})
        assert res.status_code == 200 and {*res.json()} == {'presented', 'probabilities'}
        assert res.json()['presented'] == want.label and abs(res.json()['probabilities']['men'] - want.men) < 1e-6
    assert 'presented gender' in client.get('/about').json()['about']

def test_refusals(service, photo, awkward):
    client = TestClient(service.app)   # raises what the service does not catch
    for data,status,says in ((b'', 422, 'empty file'), (b'words', 422, 'not an image'),
                             (bomb(), 422, 'too many pixels'), (photo[:500], 422, ''),
                             (bytes(100_000_000), 413, 'Too Large')):
        res = client.post('/predict', files={'photo': data})
        assert res.status_code == status and says in res.text, (data[:9], res.text)
    path, known = awkward
    for file,ok in known.items():
        if not ok and os.path.isfile(file) and os.path.getsize(file) < 2**20:
            assert client.post('/predict', files={'photo': Path(file).read_bytes()}).status_code == 422, file
    many = [('photo', (f'{i}', b'')) for i in range(2000)]
    for kwargs in (dict(), dict(data={'photo': 'text'}), dict(content=photo), dict(files=many),
                   dict(files={'other': photo}),
                   dict(content=b'--x', headers={'content-type': 'multipart/form-data; boundary=x'}),
                   dict(content=(bytes(10**6) for _ in range(20)),   # of unknown length
                        headers={'content-type': 'multipart/form-data; boundary=x'})):
        assert 400 <= client.post('/predict', **kwargs).status_code < 500, [*kwargs]

def test_a_photo_that_takes_too_long(service, photo, monkeypatch):
    monkeypatch.setattr(service, 'most_seconds', .2)
    predict = service.clf.predict
    monkeypatch.setattr(service.clf, 'predict', lambda *args, **kwargs: time.sleep(1) or predict(*args, **kwargs))
    res = TestClient(service.app).post('/predict', files={'photo': photo})
    assert res.status_code == 503 and 'no answer within 0.2 seconds' in res.text

def post(port, body, length=None, wait=30):
    "The status of a form with the photo `body`, sent with `length` as its length"
    form = b'--x\r\nContent-Disposition: form-data; name="photo"; filename="a"\r\n\r\n' + body + b'\r\n--x--\r\n'
    with socket.create_connection(('127.0.0.1', port), timeout=wait) as s:
        head = ('POST /predict HTTP/1.1\r\nHost: a\r\nConnection: close\r\n'
                'Content-Type: multipart/form-data; boundary=x\r\n'
                f'Content-Length: {length or len(form)}\r\n\r\n')
        s.sendall(head.encode() + form)
        return s.makefile('rb').read().decode()

@contextmanager
def serving(folder, *command):
    "The port on which a server in `folder` answers"
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONWARNINGS': 'ignore'}
    with open(folder/'log', 'w') as log:
        run = subprocess.Popen([sys.executable, '-m', *(o.format(port=port) for o in command)], cwd=folder, env=env,
                               stdout=log, stderr=log)
    try:
        for _ in range(600):
            assert run.poll() is None, (folder/'log').read_text()
            try: socket.create_connection(('127.0.0.1', port)).close()
            except OSError: time.sleep(.1)
            else: break
        yield port
    finally:
        run.terminate()
        run.wait(30)

gunicorn = ('gunicorn', 'service:app', '--worker-class', 'asgi', '--workers', '2', '--preload',
            '--bind', '127.0.0.1:{port}')
uvicorn = 'uvicorn', 'service:app', '--workers', '2', '--port', '{port}'

@pytest.mark.parametrize('command,light', [(gunicorn, False), (gunicorn, True), (uvicorn, True)],
                         ids=['forked', 'forked, ONNX', 'spawned, ONNX'])
def test_two_workers(folder, photo, command, light):
    pytest.importorskip(command[0])
    file, text = folder/'service.py', (folder/'service.py').read_text()
    text = text.replace(', 20\n', ', 3\n').replace(
        "@app.get('/about')", "import os\n@app.get('/pid')\nasync def pid(): return os.getpid()\n\n@app.get('/about')")
    if light: text = (text.replace('genderres.classifier import Gender', 'genderres.predict import Onnx')
                      .replace("GenderClassifier.load('mine.safetensors', 'cpu')", "OnnxClassifier('mine.onnx')"))
    file.write_text(text)
    want = GenderClassifier.load(folder/'mine.safetensors', 'cpu').predict(photo)
    with serving(folder, *command) as port, ThreadPoolExecutor(8) as pool:
        said = [*pool.map(lambda _: post(port, photo), range(24))]
        assert all(' 200 ' in o.splitlines()[0] for o in said), said
        assert {json.loads(o.partition('\r\n\r\n')[2])['presented'] for o in said} == {want.label[0]}
        assert ' 503 ' in post(port, photo[:1000], length=10**6).splitlines()[0]   # the rest never comes
        assert ' 413 ' in post(port, b'', length=10**8).splitlines()[0]
        assert ' 200 ' in post(port, photo).splitlines()[0]
    assert 'Traceback' not in (folder/'log').read_text(), (folder/'log').read_text()
