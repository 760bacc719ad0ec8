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

def start(folder, *options):
    "`genderres app`, and the address that it prints"
    process = subprocess.Popen([sys.executable, '-c', 'from genderres.cli import main; main()', 'app', *options],
                               cwd=folder, stderr=subprocess.PIPE, text=True)
    said = ''
    for line in process.stderr:
        said += line
        if found := re.search(r'http://\S+/', line): return process, found.group()
    raise AssertionError(f'the page did not open: {said}')

@pytest.fixture(scope='module')
def site(tmp_path_factory):
    "An open page, and the folder that it was started in, with labelled photos, crowds and a clip"
    folder = tmp_path_factory.mktemp('site')
    photos = sample_portraits(folder/'photos', n=50, size=64)
    for i,o in enumerate(sorted((photos/'men').iterdir())): shutil.copy(o, photos/'women'/f'copy {i}.jpg')
    for i in (1, 2): draw_crowd(['men', 'women', 'women'], np.random.default_rng(i))[0].save(folder/f'crowd {i}.jpg')
    (folder/'letter.jpg').write_text('Dear Sir or Madam')
    process, address = start(folder, '--photos', 'photos', '--decisions', 'decisions.csv')
    yield folder, address
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0

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
    table = panel(page).locator('table')
    table.wait_for()
    assert 'not an image' in table.inner_text() and 'presented gender' in panel(page).inner_text()
    with page.expect_download() as download: press(page, 'Download the table')
    answers = pd.read_csv(download.value.path())
    assert answers.file.tolist() == ['crowd 1.jpg']*3 + ['crowd 2.jpg']*3 + ['letter.jpg'] and answers.threshold.eq(.8).all()
    press(page, 'Where did it look?')
    panel(page).locator('img[alt="What spoke for the answer"]').wait_for()
