"Official portraits, from servers that behave and from others"
import io, os, signal, socket, subprocess, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import numpy as np, pandas as pd, pytest
from genderres.datasets import congress_portraits
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

def fine(h, k):  send(h, photos[int(h.path[2:8])%6])
def gone(h, k):  send(h, b'<html>404</html>', 404)
def html(h, k):  send(h, b'<html>Please sign in</html>')
def short(h, k): send(h, photos[0][:1000], length=len(photos[0]))
def long(h, k):  send(h, photos[0], length=1000)
def circle(h, k): send(h, status=302, Location=h.path)
def ftp(h, k):   send(h, status=302, Location='ftp://127.0.0.1/a.jpg')
def moved(h, k): send(h, status=301, Location='/M000000.jpg')
def later(h, k): send(h, status=429, Retry_After='3600')
def slam(h, k): h.close_connection = True
def chunk(h, k):
    send(h, length='x', Transfer_Encoding='chunked')
    h.wfile.write(b'3e8\r\n' + photos[0][:500])
def stall(h, k):
    send(h, photos[0][:1000], length=len(photos[0]))
    h.server.site.over.wait(20)
def drip(h, k):
    send(h, length=100000)
    while not h.server.site.over.wait(.2): h.wfile.write(b'.')
def drip_headers(h, k):
    h.wfile.write(b'HTTP/1.1 200 OK\r\nX: ')
    while not h.server.site.over.wait(.2): h.wfile.write(b'.')
def endless(h, k):
    send(h, length=10**15)
    while True: h.wfile.write(bytes(1 << 20))
def at_first(bad, times=1):
    "`bad` at first, then fine"
    return lambda h,k: bad(h, k) if k <= times else fine(h, k)
def status(code, **headers): return lambda h,k: send(h, b'busy', code, **headers)

class Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def log_message(self, *args): pass
    def do_GET(self):
        site, name = self.server.site, self.path[1:].removesuffix('.jpg')
        with site.lock: site.asked.append((name, time.monotonic(), self.headers, self.client_address[1]))
        k = sum(o[0] == name for o in site.asked)
        try:
            if isinstance(table := site.tables.get(name), bytes): send(self, table)
            else: (table or site.modes.get(name, gone))(self, k)
        except OSError: self.close_connection = True

class Site:
    "A server with tables of people, and a mode for each portrait"
    def __init__(self):
        self.asked, self.modes, self.tables, self.lock, self.over = [], {}, {}, threading.Lock(), threading.Event()
        self.server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.server.site, self.server.daemon_threads = self, True
        self.address = f'http://127.0.0.1:{self.server.server_port}'
        threading.Thread(target=self.server.serve_forever, kwargs=dict(poll_interval=.05), daemon=True).start()
        self.list([]), self.list([], 'historical')
    def list(self, people, which='current'):
        "A table of `people`: an id, or an id and a gender"
        rows = [(o, 'MF'[i%2]) if isinstance(o, str) else o for i,o in enumerate(people)]
        df = pd.DataFrame([dict(last_name='', first_name='', birthday='1950-01-01', gender=g, type='rep', party='', bioguide_id=o) for o,g in rows],
                          columns=['last_name', 'first_name', 'birthday', 'gender', 'type', 'party', 'bioguide_id'])
        self.tables[f'legislators-{which}.csv'] = df.to_csv(index=False).encode()
    def people(self, modes, which='current'):
        "List people X000000 and so on, with these modes; their ids"
        ids = [f'X{i:06d}' for i in range(len(modes))]
        self.modes |= dict(zip(ids, modes))
        self.list(ids, which)
        return ids
    def requests(self): return [o[0] for o in self.asked if not o[0].endswith('.csv')]
    def __call__(self, dest, **kwargs):
        return congress_portraits(dest, **{**dict(images=self.address, tables=self.address, progress=False), **kwargs})

@pytest.fixture
def site(monkeypatch):
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    site = Site()
    yield site
    site.over.set()
    site.server.shutdown()
    site.server.server_close()

def files(path): return sorted(o.relative_to(path).as_posix() for o in path.rglob('*') if not o.is_dir())

@pytest.fixture
def nowhere():
    "The address of a port that nobody listens at"
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return f'http://127.0.0.1:{s.getsockname()[1]}'

def test_photos_labels_and_counts(site, tmp_path, capsys):
    ids = site.people([fine, fine, gone, fine, fine, html, fine, fine])
    df = site(tmp_path/'a'/'b', progress=True)
    assert df.person.tolist() == ids and df.label.tolist() == ['men', 'women']*4
    assert [i for i,o in enumerate(df.problem) if o] == [2, 5] and df.problem[2] == 'no portrait (404)'
    for o in df[df.problem == ''].itertuples(): assert (tmp_path/'a'/'b'/o.file).read_bytes() == photos[int(o.person[1:])%6]
    labels = pd.read_csv(tmp_path/'a'/'b'/'labels.csv')
    assert labels.columns.tolist()[:4] == ['file', 'label', 'person', 'born'] and (labels.born == '1950-01-01').all()
    assert sorted([*labels.file, 'labels.csv']) == files(tmp_path/'a'/'b')
    assert '8 people listed: 6 downloaded, 0 already there, 1 missing, 1 failed; labels: presented gender' in capsys.readouterr().out

def test_training_takes_both_the_folder_and_the_table(site, tmp_path):
    from genderres.photos import photos_from_source
    site.people([fine]*6 + [gone])
    site(tmp_path/'c')
    by_table = photos_from_source(tmp_path/'c'/'labels.csv')
    by_folder = photos_from_source(tmp_path/'c')
    used = by_folder[by_folder.problem == '']
    assert set(zip(by_table.file, by_table.label)) == set(zip(used.file, used.label)) and len(used) == 6
    assert [os.path.basename(o) for o in by_folder.file[by_folder.problem != '']] == ['labels.csv']

def test_another_try_where_it_may_help(site, tmp_path):
    wait = at_first(status(429, Retry_After='1'))
    ids = site.people([at_first(status(500), 2), wait, at_first(short), at_first(stall), at_first(slam), at_first(chunk), moved,
                       at_first(status(503, Retry_After='soon'))])
    site.modes['M000000'] = fine
    df = site(tmp_path/'c', timeout=1, connections=8)
    assert (df.problem == '').all(), df
    assert [site.requests().count(o) for o in ids] == [3, 2, 2, 2, 2, 2, 1, 2]
    first, second = [t for o,t,*_ in site.asked if o == ids[1]]
    assert 1 <= second - first < 2

def test_what_stays_bad_is_a_row_and_no_file(site, tmp_path):
    modes = dict(fine=fine, gone=gone, stall=stall, short=short, long=long, html=html, circle=circle, ftp=ftp, later=later, slam=slam, chunk=chunk,
                 endless=endless, forbidden=status(403), down=status(500), empty=lambda h,k: send(h), drip=drip, headers=drip_headers)
    ids = dict(zip(modes, site.people(modes.values())))
    start = time.monotonic()
    df = site(tmp_path/'c', timeout=.4, retries=1, connections=8)
    assert time.monotonic() - start < 8
    problems = dict(zip(modes, df.problem))
    lost, cut = 'nothing came for 0.4 s', 'the connection broke'
    assert problems == dict(fine='', gone='no portrait (404)', stall=lost, short=cut, long=problems['long'], html='not an image', circle='too many redirects',
                            ftp=problems['ftp'], later='HTTP 429', slam=cut, chunk=cut, endless='more than 20 MB', forbidden='HTTP 403', down='HTTP 500',
                            empty='empty file', drip='too slow', headers='not there after 2 s')
    assert 'damaged image' in problems['long'] and 'ftp:' in problems['ftp']
    assert files(tmp_path) == ['c/labels.csv', 'c/men/X000000.jpg']
    asked = {k: site.requests().count(o) for k,o in ids.items()}
    assert {k for k,o in asked.items() if o == 2} >= {'short', 'slam', 'chunk', 'down', 'stall'} and 2 <= asked.pop('circle') <= 10
    assert all(asked[k] == 1 for k in ('fine', 'gone', 'long', 'html', 'later', 'forbidden', 'empty', 'endless'))

def test_ids_are_not_trusted_as_names(site, tmp_path):
    odd = ['../../evil', '..\\evil', '/tmp/evil', 'X000001/../../evil', '', 'x000001', 'X0000012', 'X00000\uff11', 'X000001\n', 'X000001.jpg', 'X000001%2f..']
    site.modes = dict.fromkeys(['evil', '../../evil', *odd], fine)
    site.list([*odd, 'X000001'])
    site.modes['X000001'] = fine
    df = site(tmp_path/'a'/'b'/'c')
    assert df.problem.tolist() == ['odd id']*len(odd) + [''] and df.file[:len(odd)].eq('').all()
    assert site.requests() == ['X000001'] and files(tmp_path) == ['a/b/c/labels.csv', 'a/b/c/women/X000001.jpg']

def test_each_person_once_and_only_known_labels(site, tmp_path, capsys):
    site.modes = dict.fromkeys(['X000001', 'X000002', 'X000003', 'X000004'], fine)
    site.list([('X000001', 'F'), ('X000002', 'M'), ('X000003', '')])
    site.list([('X000002', 'M'), ('X000004', 'F'), ('X000005', 'x')], 'historical')
    df = site(tmp_path/'c')
    assert df.person.tolist() == [f'X00000{i}' for i in range(1, 6)] and sorted(site.requests()) == ['X000001', 'X000002', 'X000004']
    assert df.problem.tolist() == ['', '', 'no label', '', 'no label']
    assert '5 people listed: 3 downloaded, 0 already there, 0 missing, 2 failed' in capsys.readouterr().out
    assert site(tmp_path/'d', n=2, which=['historical']).person.tolist() == ['X000002', 'X000004']

def test_second_call_fetches_only_what_is_missing_or_damaged(site, tmp_path, capsys):
    ids = site.people([fine, fine, status(500), fine, fine, fine])
    site(tmp_path/'c', n=4, retries=0)
    kept = (tmp_path/'c'/'men'/'X000000.jpg')
    (tmp_path/'c'/'women'/'X000001.jpg').write_bytes(photos[1][:1000])
    before, _ = kept.stat().st_mtime_ns, site.asked.clear()
    site.modes[ids[2]] = fine
    assert (site(tmp_path/'c').problem == '').all()
    assert sorted(site.requests()) == [ids[1], ids[2], ids[4], ids[5]] and kept.stat().st_mtime_ns == before
    assert '6 people listed: 4 downloaded, 2 already there, 0 missing, 0 failed' in capsys.readouterr().out
    for i,o in enumerate(ids): assert (tmp_path/'c'/('men', 'women')[i%2]/f'{o}.jpg').read_bytes() == photos[i]

def test_labels_of_earlier_calls_stay(site, tmp_path):
    "Also when a later call lists other people, or fewer"
    site.modes = dict.fromkeys(['X000001', 'X000002', 'X000003', 'X000004'], fine)
    site.list(['X000001', 'X000002', 'X000003'])
    site.list(['X000004'], 'historical')
    site(tmp_path/'c', which=['current'])
    (tmp_path/'c'/'men'/'X000003.jpg').unlink()
    site(tmp_path/'c', n=1, which=['historical'])
    assert sorted(pd.read_csv(tmp_path/'c'/'labels.csv').file) == files(tmp_path/'c')[1:] and len(files(tmp_path/'c')) == 4

code = '''
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)   # a job in the background is born deaf to it
from genderres.datasets import congress_portraits
assert not {'torch', 'fastai'} & set(sys.modules)
congress_portraits(sys.argv[1], images=sys.argv[2], tables=sys.argv[2], connections=2)
'''

def test_ctrl_c_stops_at_once_and_the_next_call_goes_on(site, tmp_path):
    "With one thread at a server that says nothing for 20 s; and neither PyTorch nor fastai is imported"
    def slow(h, k): time.sleep(.05); fine(h, k)
    ids = site.people([slow, stall] + [slow]*150)
    job = subprocess.Popen([sys.executable, '-c', code, tmp_path/'c', site.address], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while len(site.requests()) < 12:
        assert job.poll() is None, job.communicate()
        time.sleep(.02)
    start = time.monotonic()
    job.send_signal(signal.SIGINT)
    err = job.communicate(timeout=15)[1]
    assert time.monotonic() - start < 3 and job.returncode and 'KeyboardInterrupt' in err
    got = files(tmp_path/'c')
    assert 5 < len(got) < 100 and not [o for o in got if o.endswith('.part')]
    assert sorted(pd.read_csv(tmp_path/'c'/'labels.csv').file) == got[1:]
    assert not [o for o in got[1:] if image_problem(tmp_path/'c'/o)]
    site.modes |= dict.fromkeys(ids, fine)
    site.asked.clear()
    assert (site(tmp_path/'c', connections=8).problem == '').all()
    assert len(site.requests()) == len(ids) - len(got[1:]) and len(files(tmp_path/'c')) == len(ids) + 1

def test_interrupted_while_a_file_is_written(site, tmp_path, monkeypatch):
    "Nothing half-written stays, and whoever waits for another try gives up too"
    ids = site.people([status(503)] + [fine]*3)
    def interrupt(a, b): raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr('genderres.congress.os.replace', interrupt)
        with pytest.raises(KeyboardInterrupt): site(tmp_path/'c')
    time.sleep(.8)
    assert files(tmp_path) == [] and site.requests().count(ids[0]) <= 1
    site.modes[ids[0]] = fine
    assert (site(tmp_path/'c').problem == '').all()

def test_no_more_requests_at_a_time_than_agreed(site, tmp_path):
    now, most, lock = [0], [0], threading.Lock()
    def counted(h, k):
        with lock: now[0] += 1; most[0] = max(most[0], now[0])
        time.sleep(.05)
        with lock: now[0] -= 1
        fine(h, k)
    site.people([counted]*18 + [gone]*6)
    start = time.monotonic()
    assert (site(tmp_path/'c', connections=3).problem == '').sum() == 18
    assert most[0] == 3 and time.monotonic() - start < 18*.05
    assert all(h['User-Agent'].startswith('genderres/') and h['Accept-Encoding'] == 'identity' for _,_,h,_ in site.asked)
    assert len({o[3] for o in site.asked}) <= 3   # connections are used again, also after a 404

def test_host_of_the_portraits_is_not_there(site, tmp_path, nowhere):
    site.people([fine]*100)
    start = time.monotonic()
    with pytest.raises(ConnectionError, match=f'{nowhere}/X.*no connection .* 20 portraits in a row. 0 of 100 are in .*same call goes on'):
        site(tmp_path/'c', images=nowhere, retries=1, connections=8)
    with pytest.raises(ConnectionError, match=f'{nowhere}.*3 portraits in a row'): site(tmp_path/'c', images=nowhere, retries=0, n=3)
    assert time.monotonic() - start < 6 and files(tmp_path) == []

def test_host_that_breaks_down_midway(site, tmp_path):
    "What came before is labelled, few requests are wasted, and the next call goes on"
    ids = site.people([fine]*30 + [status(503)]*70)
    with pytest.raises(ConnectionError, match='HTTP 503, and so for 20 portraits in a row. 30 of 100'): site(tmp_path/'c', retries=0)
    assert len(site.requests()) < 60 and len(pd.read_csv(tmp_path/'c'/'labels.csv')) == 30
    site.modes |= dict.fromkeys(ids, fine)
    site.asked.clear()
    assert (site(tmp_path/'c').problem == '').all() and len(site.requests()) == 70

def test_losses_here_and_there_are_no_breakdown(site, tmp_path):
    site.people([fine, status(503)]*25)
    df = site(tmp_path/'c', retries=0, connections=1)
    assert df.problem.tolist() == ['', 'HTTP 503']*25

def test_one_lost_photo_is_no_breakdown(site, tmp_path):
    "Not even if it is the only one left"
    site.people([fine, stall])
    for _ in range(2): assert site(tmp_path/'c', timeout=.3, retries=0).problem.tolist() == ['', 'nothing came for 0.3 s']

def test_no_table_to_be_had(site, tmp_path, nowhere):
    start = time.monotonic()
    with pytest.raises(ConnectionError, match=f'{nowhere}/legislators-.*csv cannot be fetched: no connection.*`tables`.*browser'):
        congress_portraits(tmp_path/'c', images=nowhere, tables=nowhere, retries=1)
    with pytest.raises(ConnectionError, match=f'{site.address}/x/legislators-current.csv cannot be fetched: HTTP 404'):
        site(tmp_path/'c', tables=site.address + '/x', which=['current'])
    site.tables['legislators-current.csv'] = endless
    with pytest.raises(ConnectionError, match='cannot be fetched: more than 100 MB'): site(tmp_path/'c')
    assert time.monotonic() - start < 8 and files(tmp_path) == []

@pytest.mark.parametrize('data,lacks', [(b'<!DOCTYPE html>\n<html><a href="x,y">Sign in, please</a>\n</html>', 'bioguide_id, gender, birthday, type, party'),
    (b'', 'bioguide_id'), (bytes(range(256)), 'bioguide_id'), (b'id,gender,birthday,type,party\nX000001,M,,rep,', 'bioguide_id'),
    (b'bioguide_id,sex,birthday,type,party\nX000001,M,,rep,', 'gender')])
def test_no_table_at_all(site, tmp_path, data, lacks):
    site.tables['legislators-current.csv'] = data
    with pytest.raises(ValueError, match=f'{site.address}/legislators-current.csv is not a table of members: it has no column {lacks}.*browser'): site(tmp_path/'c')
    assert files(tmp_path) == []

def test_other_files_stay(site, tmp_path):
    dest = tmp_path/'c'
    mine = {o: os.urandom(100) for o in ('notes.txt', 'men/me.jpg', 'men/X000000.jpg.part', 'men/X000000.0.part', 'women/deep/X000001.jpg', 'other/labels.csv')}
    for k,v in mine.items(): (dest/k).parent.mkdir(parents=True, exist_ok=True); (dest/k).write_bytes(v)
    site.people([fine]*4)
    site(dest)
    assert {o: (dest/o).read_bytes() for o in mine} == mine and len(files(dest)) == len(mine) + 5

def test_labels_of_somebody_else_are_refused(site, tmp_path):
    site.people([fine]*4)
    for data in (b'file,label\nmine.jpg,men\n', b'', bytes(range(256))):
        (tmp_path/'labels.csv').write_bytes(data)
        with pytest.raises(FileExistsError, match='labels.csv is not of this download'): site(tmp_path)
        assert files(tmp_path) == ['labels.csv'] and (tmp_path/'labels.csv').read_bytes() == data

@pytest.mark.parametrize('kwargs,match', [(dict(connections=0), 'connections=0: 1 to 8'), (dict(connections=9), 'connections=9: 1 to 8'), (dict(n=0), 'n=0'),
    (dict(n=-1), 'n=-1'), (dict(retries=-1), 'retries=-1'), (dict(timeout=0), 'timeout=0'), (dict(which='current'), "which='current'"), (dict(which=[]), 'which='),
    (dict(images='example.org'), 'images=.*http'), (dict(tables='file:///etc'), 'tables=.*http')])
def test_what_makes_no_sense_is_refused_before_anything_is_asked(site, tmp_path, kwargs, match):
    with pytest.raises(ValueError, match=match): site(tmp_path/'c', **kwargs)
    assert not site.asked and files(tmp_path) == []

def test_a_file_in_place_of_the_folder(site, tmp_path):
    (tmp_path/'c').write_text('mine')
    with pytest.raises(NotADirectoryError, match='is a file: give a folder'): site(tmp_path/'c')
    assert (tmp_path/'c').read_text() == 'mine'
