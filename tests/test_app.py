"The page in a real browser, and what it refuses"
import re, shutil, signal, socket, struct, subprocess, sys, time, urllib.error, urllib.request, zlib
import numpy as np, pandas as pd, pytest
from pathlib import Path
from PIL import Image
from genderres.portraits import draw_crowd, draw_portrait, sample_portraits
from genderres.video import Walk, draw_clip
pytest.importorskip('gradio', reason='the extra app is not installed')

chromium = next((o for o in map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome')) if o), None)
flags = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-background-networking', '--use-fake-device-for-media-stream',
         '--use-fake-ui-for-media-stream']

def start(folder, *options, code='from genderres.cli import main; main()'):
    "`genderres app`, and the address that it prints"
    with open(folder/'said.txt', 'w') as said: process = subprocess.Popen([sys.executable, '-c', code, 'app', *options], cwd=folder, stderr=said)
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
    pd.DataFrame(dict(file=[o.relative_to(photos) for o in files], label=[o.parent.name for o in files], hat=['yes', 'no']*25)).to_csv(photos/'photos.csv', index=False)
    for i in (1, 2): draw_crowd(['men', 'women', 'women'], np.random.default_rng(i))[0].save(folder/f'crowd {i}.jpg')
    (folder/'letter.jpg').write_text('Dear Sir or Madam')
    process, address = start(folder, '--photos', 'photos', '--decisions', 'decisions.csv')
    yield folder, address
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0, (folder/'said.txt').read_text()

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
    "Visitors of the page, each with an empty profile; nothing is asked of another host, and nothing goes wrong in their browser"
    asked, wrong, visitors = set(), [], []
    def visit(address=site[1], **kwargs):
        visitors.append(browser.new_context(**{'locale': 'en', 'permissions': ['camera'], **kwargs}))
        page = visitors[-1].new_page()
        page.set_default_timeout(20_000)
        page.on('request', lambda o: asked.add(re.sub('^(blob|data):.*', '', o.url).split('/')[2:3][0] if '//' in o.url else ''))
        page.on('pageerror', lambda o: wrong.append(str(o)))
        page.on('dialog', lambda o: wrong.append(f'a script ran: {o.message}'))
        page.goto(address)
        page.wait_for_selector('#title')
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
    assert answers.file.tolist() == ['crowd 1.jpg']*3 + ['crowd 2.jpg']*3 + ['letter.jpg'] and answers.threshold.eq(.8).all()
    press(page, 'Where did it look?')
    panel(page).locator('img[alt="What spoke for the answer"]').wait_for()

def test_camera(visit):
    "A photo from the camera is judged like others; nobody is in it, so the whole photo is"
    page = visit()
    panel(page).get_by_role('button', name='Camera').click()
    panel(page).get_by_role('button', name='Click to Access Webcam').click()
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
    panel(page).locator('pre', has_text='people in').wait_for()
    panel(page).locator('img[alt="How many people come in each minute"]').wait_for()

def test_evaluate(visit, site):
    "Fifty photos: the report, the plots, the worst mistakes, and groups from the columns of a table"
    page = visit()
    tab(page, 'Evaluate')
    press(page, 'Evaluate')
    panel(page).locator('.prose table').first.wait_for()
    text = panel(page).inner_text()
    assert 'recall women' in text and '95% interval' in text and 'presented gender' in text.lower()
    for o in ('Labels and predictions', 'The photos with the largest losses'): panel(page).locator(f'img[alt="{o}"]').wait_for()
    page.get_by_label('Labelled photos').click()
    page.get_by_role('option', name='photos.csv').click()
    page.get_by_label('Compare groups by').click()
    page.get_by_role('option', name='hat').click()
    press(page, 'Evaluate')
    panel(page).locator('img[alt="Shares and intervals by group"]').wait_for()
    with page.expect_download() as download: press(page, 'Download the table')
    assert len(pd.read_csv(download.value.path())) == 50

def test_about(visit):
    page = visit()
    tab(page, 'About')
    text = panel(page).inner_text()
    assert 'Gender is what people know about themselves' in text and 'resnet34' in text and 'FairFace' in text

def said(page): return page.locator('#said').inner_text()

def decide(page, key):
    "Press a key, and wait until the page has taken it"
    before = said(page)
    page.keyboard.press(key)
    page.wait_for_function('before => document.querySelector("#said").innerText.trim().split("\\n")[0] != before && !/^[0-9.]+s|processing/.test(document.querySelector("#said").innerText)', arg=before.strip().split('\n')[0])
    return said(page)

def test_clean(visit, tmp_path):
    "Two hundred decisions, by one or by eight, with a reload and a kill in between: none is lost"
    photos, file = tmp_path/'photos', tmp_path/'decisions.csv'
    for i in range(104):
        for label in ('men', 'women'):
            (photos/label).mkdir(parents=True, exist_ok=True)
            Image.new('RGB', (64, 64), (2*i, 0, 255 if label == 'men' else 0)).save(photos/label/f'{i}.png')
    no_review = "import sys; sys.modules['cleanlab.filter'] = None; from genderres.cli import main; main()"   # blank photos are suspects enough
    options = '--photos', 'photos', '--decisions', 'decisions.csv'
    process, address = start(tmp_path, *options, code=no_review)
    page = visit(address)
    tab(page, 'Clean')
    press(page, 'Find suspects')
    page.locator('figure').first.wait_for()
    for key in 'kx12'*3: decide(page, key)
    assert '12 of 208 decided' in said(page)
    page.reload()
    page.wait_for_selector('#title')
    tab(page, 'Clean')
    page.locator('figure').first.wait_for()
    for _ in range(12):
        page.keyboard.press('a')
        page.wait_for_function("() => [...document.querySelectorAll('#tiles input')].filter(o => o.offsetParent).every(o => o.checked)")
        decide(page, 'x')
    process.kill()
    process.wait()
    kept = pd.read_csv(file).decision.value_counts()
    assert kept.sum() == 108 - 0, kept
