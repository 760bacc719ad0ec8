"Official portraits, from servers that behave and from others"
import _thread, io, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import numpy as np, pandas as pd, pytest
from genderres import datasets
from genderres.datasets import congress_portraits
from genderres.photos import photos_from_source
from genderres.portraits import draw_portrait
from genderres.reader import image_problem

def jpeg(seed):
    draw_portrait(('men', 'women')[seed%2], np.random.default_rng(seed), 64).save(f := io.BytesIO(), 'JPEG')
    return f.getvalue()
photos = [jpeg(i) for i in range(6)]

def page(body, status=200, length=None):
    "A function that answers; with a `length` other than the body's the connection is closed after it"
    def send(h):
        h.send_response(status)
        h.send_header('Content-Length', length or len(body))
        h.end_headers()
        h.wfile.write(body)
        h.close_connection = length is not None
    return send
def fine(h): page(photos[int(h.path[2:8])%6])(h)
gone, refused, endless = page(b'<html>404</html>', 404), page(b'no', 403), page(bytes(30 << 20), length=10**15)

class Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def log_message(self, *args): pass
    def do_GET(self):
        name = self.path[1:].removesuffix('.jpg')
        if not name.endswith('.csv'): self.server.asked.append(name)
        try: self.server.pages.get(name, gone)(self)
        except OSError: self.close_connection = True

class Site(ThreadingHTTPServer):
    "A server with tables of people, and a page for each portrait"
    def __init__(self):
        super().__init__(('127.0.0.1', 0), Handler)
        self.asked, self.pages, self.address = [], {}, f'http://127.0.0.1:{self.server_port}'
        threading.Thread(target=self.serve_forever, kwargs=dict(poll_interval=.05), daemon=True).start()
    def list(self, pages):
        "List the people with these ids, each with a page, men and women in turn; forget what was asked"
        header, self.asked, self.pages = 'bioguide_id,birthday,gender,type,party\n', [], dict(pages)
        rows = ''.join(f'"{o}",1950-01-01,{"MF"[i%2]},rep,\n' for i,o in enumerate(pages))
        self.pages |= {'legislators-current.csv': page((header + rows).encode()),
                       'legislators-historical.csv': page(header.encode())}

def files(path): return sorted(o.relative_to(path).as_posix() for o in path.rglob('*') if not o.is_dir())
def people(*pages): return {f'X{i:06d}': o for i,o in enumerate(pages)}

@pytest.fixture
def site(monkeypatch):
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    monkeypatch.setattr('urllib3.util.Retry.sleep', lambda *args: None)
    with Site() as site:
        for o in ('portraits_at', 'tables_at'): monkeypatch.setattr(datasets, o, site.address)
        yield site
        site.shutdown()

def test_download_then_only_what_is_missing(site, tmp_path, capsys):
    site.list(people(fine, fine, gone, refused, fine, fine))
    (tmp_path/'notes.txt').write_text('mine')
    df = congress_portraits(tmp_path, n=5)
    assert df.problem.tolist() == ['', '', 'HTTP 404', 'HTTP 403', ''] and df.label[:2].tolist() == ['men', 'women']
    for o in df[df.problem == ''].itertuples(): assert (tmp_path/o.file).read_bytes() == photos[int(o.person[1:])%6]
    assert sorted([*pd.read_csv(tmp_path/'labels.csv').file, 'labels.csv', 'notes.txt']) == files(tmp_path)
    assert '5 people listed, 3 portraits; labels: presented gender' in capsys.readouterr().out
    assert photos_from_source(tmp_path/'labels.csv').label.tolist() == ['men', 'women', 'men']
    site.list(people(*[fine]*6))
    (tmp_path/'women'/'X000001.jpg').write_bytes(photos[1][:1000])
    assert (congress_portraits(tmp_path, progress=False).problem == '').all()
    assert (sorted(site.asked) == ['X000001', 'X000002', 'X000003', 'X000005']
            and len(pd.read_csv(tmp_path/'labels.csv')) == 6)

@pytest.mark.parametrize('answer, problem', [
    (page(b'<html>Please sign in</html>'), 'not an image'), (endless, 'too large'),
    (page(photos[0][:1000]), 'damaged image'), (page(photos[0][:1000], length=9999), 'no answer'),
    (page(b'', 500), 'HTTP 500')])
def test_what_fails_is_a_row_and_no_file(site, tmp_path, answer, problem):
    site.list(people(answer, fine))
    df = congress_portraits(tmp_path, progress=False)
    assert problem in df.problem[0] and df.problem[1] == '' and files(tmp_path) == ['labels.csv', 'women/X000001.jpg']

def test_ids_are_not_trusted_as_names(site, tmp_path):
    odd = ['../../evil', '..\\evil', '/tmp/evil', 'X000001/../../evil', '', 'x000001', 'X00000\uff11', 'X000001\n',
           'X000001%2f..']
    site.list(dict.fromkeys([*odd, 'X000001'], fine))
    df = congress_portraits(tmp_path/'a'/'b', progress=False)
    assert df.problem.tolist() == ['no label or an odd id']*len(odd) + [''] and df.file[:len(odd)].eq('').all()
    assert site.asked == ['X000001'] and files(tmp_path) == ['a/b/labels.csv', 'a/b/women/X000001.jpg']

def test_a_server_that_breaks_down(site, tmp_path):
    site.list(people(*[fine, refused]*15, *[gone]*25, *[refused]*60))
    with pytest.raises(ConnectionError, match='20 portraits in a row failed.*HTTP 403'):
        congress_portraits(tmp_path, progress=False)
    assert len(site.asked) <= 80 and len(pd.read_csv(tmp_path/'labels.csv')) == 15
    site.list(people(*[fine]*115))
    assert (congress_portraits(tmp_path, progress=False).problem == '').all() and len(site.asked) == 100

@pytest.mark.parametrize('answer', [page(b'<!DOCTYPE html>\n<a href="x,y">Sign in</a>'), page(b''),
                                    page(bytes(range(256))), gone])
def test_no_table(site, tmp_path, answer):
    site.pages['legislators-current.csv'] = answer
    with pytest.raises(ConnectionError, match='legislators-current.csv gives no table of members'):
        congress_portraits(tmp_path)
    assert files(tmp_path) == []

def test_ctrl_c_keeps_what_arrived(site, tmp_path, interruptible):
    def interrupt(h): fine(h); _thread.interrupt_main()
    site.list(people(*[fine]*40, interrupt, *[fine]*100))
    with pytest.raises(KeyboardInterrupt): congress_portraits(tmp_path, progress=False)
    assert 30 < len(got := files(tmp_path)) < 80 and sorted(pd.read_csv(tmp_path/'labels.csv').file) == got[1:]
    assert not [o for o in got[1:] if image_problem(tmp_path/o)]
