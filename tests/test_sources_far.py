"Photos in stores and on web servers: each kind of source gives the bytes that were put there"
import functools, http.server, io, re, tarfile, threading
import pandas as pd, pytest
fsspec, moto = pytest.importorskip('fsspec'), pytest.importorskip('moto.server')
for o in ('aiohttp', 'pyarrow', 's3fs'): pytest.importorskip(o)
from genderres.scale import fetch, list_photos
from werkzeug.serving import make_server
from werkzeug.utils import send_file

photos = {f'{i}.jpg': bytes([65 + i])*(100 + i) for i in range(5)}   # nobody decodes them here

def parquet(**columns):
    f = io.BytesIO()
    pd.DataFrame(columns).to_parquet(f, row_group_size=2)
    return f.getvalue()

def tar():
    f = io.BytesIO()
    with tarfile.open(fileobj=f, mode='w') as t:
        for name,data in photos.items():
            (info := tarfile.TarInfo(name)).size = len(data)
            t.addfile(info, io.BytesIO(data))
        t.addfile(tarfile.TarInfo('./._0.jpg'))   # as macOS leaves behind
    return f.getvalue()

names, data = [*photos], [*photos.values()]
sources = {'a.tar': tar(), 'bytes.parquet': parquet(file=names, bytes=data),
           'nested.parquet': parquet(image=[dict(bytes=o, path=None) for o in data]),   # as data sets have it
           'list.parquet': parquet(file=[f'photos/{o}' for o in names]),
           'list.csv': 'file\n' + ''.join(f'photos/{o}\n' for o in names)}
sources = {k: o.encode() if isinstance(o, str) else o for k,o in sources.items()}
files = sources | {f'photos/{k}': o for k,o in photos.items()}

def serve(server):
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server

@pytest.fixture(scope='module')
def bucket():
    "An S3 server with the files, and pandas' `storage_options` for it"
    app = moto.DomainDispatcherApplication(moto.create_backend_app)
    server = serve(make_server('127.0.0.1', 0, app, threaded=True))
    options = dict(key='a', secret='b', client_kwargs=dict(endpoint_url=f'http://127.0.0.1:{server.port}',
                                                            region_name='us-east-1'))
    s3 = fsspec.filesystem('s3', **options)
    s3.call_s3('create_bucket', Bucket='far')
    for k,o in files.items(): s3.call_s3('put_object', Bucket='far', Key=k, Body=o)
    yield 's3://far', options
    server.shutdown()

class Quiet(http.server.SimpleHTTPRequestHandler):
    "Python's own server, which gives no parts of files"
    def log_message(self, *args): pass

@pytest.fixture(scope='module', params=['parts', 'whole files'])
def web(request, tmp_path_factory):
    "A web server with the files; the options are for stores"
    folder = tmp_path_factory.mktemp('web')
    (folder/'photos').mkdir()
    for k,o in files.items(): (folder/k).write_bytes(o)
    def parts(environ, start): return send_file(folder/environ['PATH_INFO'][1:], environ)(environ, start)
    server = serve(make_server('127.0.0.1', 0, parts, threaded=True) if request.param == 'parts' else
                   http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=folder)))
    yield f'http://127.0.0.1:{server.server_address[1]}', dict(anon=True)
    server.shutdown()

def content(source, options): return [fetch(o, options) for o in list_photos(source, options).itertuples()]

@pytest.mark.parametrize('source', [*sources, 'photos'])
def test_in_a_store(bucket, source): assert content(f'{bucket[0]}/{source}', bucket[1]) == data

@pytest.mark.parametrize('source', sources)
def test_on_the_web(web, source): assert content(f'{web[0]}/{source}', web[1]) == data

def test_addresses_of_photos(web):
    assert content([f'{web[0]}/photos/{o}' for o in names], web[1]) == data

def test_a_folder_of_shards(bucket):
    fs = fsspec.filesystem('s3', **bucket[1])
    for i in range(2): fs.call_s3('put_object', Bucket='far', Key=f'shards/{i}.parquet', Body=sources['bytes.parquet'])
    assert content('s3://far/shards', bucket[1]) == data*2

def test_a_folder_of_shards_and_other_files(bucket):
    "A mark of the program that wrote them, and a text about them"
    fs = fsspec.filesystem('s3', **bucket[1])
    for o in ('a.tar', 'README.md', '_SUCCESS'):
        fs.call_s3('put_object', Bucket='far', Key=f'tars/{o}', Body=sources.get(o, b''))
    assert content('s3://far/tars', bucket[1]) == data

def test_capitals(bucket): assert content('S3://far/photos', bucket[1]) == data

def test_names_beside_a_list(bucket):
    fs = fsspec.filesystem('s3', **bucket[1])
    fs.call_s3('put_object', Bucket='far', Key='lists/a.csv', Body=b'file\n../photos/0.jpg\n../photos/./1.jpg\n')
    assert content('s3://far/lists/a.csv', bucket[1]) == data[:2]

@pytest.mark.parametrize('key,body,said', [
    ('a.csv', b'url\na.jpg', 'needs a column file'), ('a.parquet', parquet(url=['a.jpg']), 'needs a column file'),
    ('a.tar', tar()[:700], 'is not an uncompressed tar, or is cut off'),
    ('b.tar', b'', 'is not an uncompressed tar, or is cut off')])
def test_wrong_shards_and_lists(bucket, key, body, said):
    "The error is about the file, not about the store"
    fs = fsspec.filesystem('s3', **bucket[1])
    fs.call_s3('put_object', Bucket='far', Key=f'wrong/{key}', Body=body)
    with pytest.raises(ValueError, match=f'^{re.escape(f"s3://far/wrong/{key}")} {said}'):
        list_photos(f's3://far/wrong/{key}', bucket[1])
