"Official portraits, from servers that behave and from others"
import io, os, signal, subprocess, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import numpy as np, pandas as pd, pytest
from genderres import datasets
from genderres.datasets import congress_portraits
from genderres.photos import photos_from_source
from genderres.portraits import draw_portrait
from genderres.reader import image_problem

def jpeg(seed):
    f = io.BytesIO()
    draw_portrait(('men', 'women')[seed%2], np.random.default_rng(seed), 64).save(f, 'JPEG')
    return f.getvalue()

photos = [jpeg(i) for i in range(6)]

def send(h, body=b'', status=200, length=None, **headers):
    "An answer; with a `length` other than the body's the connection is closed after it"
    h.send_response(status)
    for k,v in {'Content-Length': len(body) if length is None else length, **headers}.items(): h.send_header(k.replace('_', '-'), v)
    h.end_headers()
    h.wfile.write(body)
    h.close_connection = length is not None

def fine(h):  send(h, photos[int(h.path[2:8])%6])
def gone(h):  send(h, b'<html>404</html>', 404)
def html(h):  send(h, b'<html>Please sign in</html>')
def short(h): send(h, photos[0][:1000], length=len(photos[0]))
def long(h):  send(h, photos[0], length=1000)
def circle(h): send(h, status=302, Location=h.path)
def ftp(h):   send(h, status=302, Location='ftp://127.0.0.1/a.jpg')
def slam(h): h.close_connection = True
def chunk(h):
    send(h, length='x', Transfer_Encoding='chunked')
    h.wfile.write(b'3e8\r\n' + photos[0][:500])
def endless(h):
    send(h, length=10**15)
    while True: h.wfile.write(bytes(1 << 20))
def status(code): return lambda h: send(h, b'busy', code)

class Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def log_message(self, *args): pass
    def do_GET(self):
        site, name = self.server.site, self.path[1:].removesuffix('.jpg')
        site.asked.append(name)
        try:
            if name in site.tables: send(self, site.tables[name])
            else: site.modes.get(name, gone)(self)
        except OSError: self.close_connection = True
    def handle_error(self, *args): pass

class Site:
    "A server with tables of people, and a mode for each portrait"
    def __init__(self):
        self.asked, self.modes, self.tables = [], {}, {}
        self.server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.server.site = self
        self.address = f'http://127.0.0.1:{self.server.server_port}'
        threading.Thread(target=self.server.serve_forever, kwargs=dict(poll_interval=.05), daemon=True).start()
        self.list([])
        self.list([], 'historical')
    def list(self, people, which='current'):
        "A table of `people`: an id, or an id and a gender"
        rows = [(o, 'MF'[i%2]) if isinstance(o, str) else o for i,o in enumerate(people)]
        lines = ['bioguide_id,birthday,gender,type,party', *[f'"{o}",1950-01-01,{g},rep,' for o,g in rows]]
        self.tables[f'legislators-{which}.csv'] = '\n'.join(lines).encode()
    def people(self, modes):
        "List people X000000 and so on, with these modes; their ids"
        ids = [f'X{i:06d}' for i in range(len(modes))]
        self.modes |= dict(zip(ids, modes))
        self.list(ids)
        return ids
    def requests(self): return [o for o in self.asked if not o.endswith('.csv')]

@pytest.fixture
def site(monkeypatch):
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    site = Site()
    for o in ('portraits_at', 'tables_at'): monkeypatch.setattr(datasets, o, site.address)
    monkeypatch.setattr('urllib3.util.Retry.sleep', lambda *args: None)
    yield site
    site.server.shutdown()
    site.server.server_close()

def files(path): return sorted(o.relative_to(path).as_posix() for o in path.rglob('*') if not o.is_dir())

def test_photos_labels_and_training(site, tmp_path, capsys):
    ids = site.people([fine, fine, gone, fine, fine, html, fine, fine])
    dest = tmp_path/'a'/'b'
    df = congress_portraits(dest)
    assert df.person.tolist() == ids and df.label.tolist() == ['men', 'women']*4
    assert [i for i,o in enumerate(df.problem) if o] == [2, 5] and df.problem[2] == 'no portrait (404)'
    for o in df[df.problem == ''].itertuples(): assert (dest/o.file).read_bytes() == photos[int(o.person[1:])%6]
    assert sorted([*pd.read_csv(dest/'labels.csv').file, 'labels.csv']) == files(dest)
    assert '8 people listed, 6 portraits: 0 of them were there already; labels: presented gender' in capsys.readouterr().out
    by_table = photos_from_source(dest/'labels.csv')
    by_folder = photos_from_source(dest).query("problem == ''")
    assert set(zip(by_table.file, by_table.label)) == set(zip(by_folder.file, by_folder.label)) and len(by_table) == 6

def test_what_fails_is_a_row_and_no_file(site, tmp_path):
    modes = dict(fine=fine, gone=gone, short=short, long=long, html=html, circle=circle, ftp=ftp, slam=slam, chunk=chunk, endless=endless,
                 forbidden=status(403), down=status(500), empty=send)
    ids = dict(zip(modes, site.people(modes.values())))
    df = congress_portraits(tmp_path/'c', progress=False)
    problems = dict(zip(modes, df.problem))
    cut = 'the connection broke'
    assert 'damaged image' in problems.pop('long')
    assert problems == dict(fine='', gone='no portrait (404)', short=cut, html='not an image', circle='too many redirects', ftp='no answer', slam='no answer',
                            chunk=cut, endless='more than 20 MB', forbidden='HTTP 403', down='HTTP 500', empty='empty file')
    assert files(tmp_path) == ['c/labels.csv', 'c/men/X000000.jpg']
    tries = {k: site.requests().count(o) for k,o in ids.items()}
    assert tries['slam'] == tries['down'] == 4 and tries['fine'] == tries['gone'] == tries['forbidden'] == 1

def test_ids_are_not_trusted_as_names(site, tmp_path):
    odd = ['../../evil', '..\\evil', '/tmp/evil', 'X000001/../../evil', '', 'x000001', 'X0000012', 'X00000\uff11', 'X000001\n', 'X000001.jpg', 'X000001%2f..']
    site.modes = dict.fromkeys(['evil', '../../evil', *odd, 'X000001'], fine)
    site.list([*odd, 'X000001'])
    df = congress_portraits(tmp_path/'a'/'b'/'c', progress=False)
    assert df.problem.tolist() == ['odd id']*len(odd) + [''] and df.file[:len(odd)].eq('').all()
    assert site.requests() == ['X000001'] and files(tmp_path) == ['a/b/c/labels.csv', 'a/b/c/women/X000001.jpg']

def test_second_call_downloads_what_is_missing_or_damaged(site, tmp_path, capsys):
    ids = site.people([fine, fine, status(403), fine, fine, fine])
    congress_portraits(tmp_path/'c', n=4, progress=False)
    kept = tmp_path/'c'/'men'/'X000000.jpg'
    (tmp_path/'c'/'women'/'X000001.jpg').write_bytes(photos[1][:1000])
    before, _ = kept.stat().st_mtime_ns, site.asked.clear()
    site.modes[ids[2]] = fine
    assert (congress_portraits(tmp_path/'c', progress=False).problem == '').all()
    assert sorted(site.requests()) == [ids[1], ids[2], ids[4], ids[5]] and kept.stat().st_mtime_ns == before
    assert '6 people listed, 6 portraits: 2 of them' in capsys.readouterr().out
    site.list(['X000007'])   # the labels of those who are no longer listed stay, as long as their photo does
    kept.unlink()
    congress_portraits(tmp_path/'c', progress=False)
    assert sorted(pd.read_csv(tmp_path/'c'/'labels.csv').file) == files(tmp_path/'c')[1:] and len(files(tmp_path/'c')) == 6

code = '''
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)   # a job in the background ignores it otherwise
from genderres import datasets
datasets.portraits_at = datasets.tables_at = sys.argv[2]
datasets.congress_portraits(sys.argv[1])
'''

@pytest.mark.skipif(sys.platform == 'win32', reason='signals work differently there')
def test_ctrl_c_keeps_what_arrived(site, tmp_path):
    def slow(h): time.sleep(.05); fine(h)
    ids = site.people([slow]*150)
    job = subprocess.Popen([sys.executable, '-c', code, tmp_path/'c', site.address], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while len(site.requests()) < 12:
        assert job.poll() is None, job.communicate()
        time.sleep(.02)
    job.send_signal(signal.SIGINT)
    err = job.communicate(timeout=15)[1]
    got = files(tmp_path/'c')
    assert job.returncode and 'KeyboardInterrupt' in err and 5 < len(got) < 100
    assert sorted(pd.read_csv(tmp_path/'c'/'labels.csv').file) == got[1:]
    assert not [o for o in got[1:] if image_problem(tmp_path/'c'/o)]
    site.asked.clear()
    assert (congress_portraits(tmp_path/'c', progress=False).problem == '').all()
    assert len(site.requests()) == len(ids) - len(got[1:])

def test_a_server_that_breaks_down(site, tmp_path):
    "What came before is labelled, few requests are wasted, and the next call continues"
    ids = site.people([fine]*30 + [status(403)]*70)
    with pytest.raises(ConnectionError, match='20 portraits in a row failed, the last with: HTTP 403'): congress_portraits(tmp_path/'c', progress=False)
    assert len(site.requests()) <= 64 and len(pd.read_csv(tmp_path/'c'/'labels.csv')) == 30
    site.modes |= dict.fromkeys(ids, fine)
    site.asked.clear()
    assert (congress_portraits(tmp_path/'c', progress=False).problem == '').all() and len(site.requests()) == 70

def test_failures_here_and_there_are_no_breakdown(site, tmp_path):
    site.people([fine, status(403)]*25 + [gone]*30)
    assert congress_portraits(tmp_path/'c', progress=False).problem.tolist() == ['', 'HTTP 403']*25 + ['no portrait (404)']*30

def test_no_table(site, tmp_path, monkeypatch):
    for data in (b'<!DOCTYPE html>\n<a href="x,y">Sign in</a>', b'', bytes(range(256)), b'id,gender,birthday,type,party\nX000001,M,,rep,'):
        site.tables['legislators-current.csv'] = data
        with pytest.raises(ValueError, match='legislators-current.csv is not a table of members: it has no column bioguide_id'): congress_portraits(tmp_path/'c')
    monkeypatch.setattr(datasets, 'tables_at', 'http://127.0.0.1:1')
    with pytest.raises(ConnectionError, match='legislators-current.csv cannot be downloaded: no answer.*browser'): congress_portraits(tmp_path/'c')
    assert files(tmp_path) == []

def test_other_files_stay(site, tmp_path):
    mine = {o: os.urandom(100) for o in ('notes.txt', 'men/me.jpg', 'men/X000000.jpg.part', 'women/deep/X000001.jpg', 'other/labels.csv')}
    for k,v in mine.items(): (tmp_path/k).parent.mkdir(parents=True, exist_ok=True); (tmp_path/k).write_bytes(v)
    site.people([fine]*4)
    congress_portraits(tmp_path, progress=False)
    assert {o: (tmp_path/o).read_bytes() for o in mine} == mine and len(files(tmp_path)) == len(mine) + 5
    (tmp_path/'labels.csv').write_bytes(b'file,label\nmine.jpg,men\n')
    with pytest.raises(FileExistsError, match='labels.csv does not come from this download'): congress_portraits(tmp_path)
    assert (tmp_path/'labels.csv').read_bytes() == b'file,label\nmine.jpg,men\n'
