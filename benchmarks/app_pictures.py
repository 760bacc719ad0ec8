"""The pictures of the page in the docs, of drawn people: python benchmarks/app_pictures.py MODEL,
the classifier that the tutorial on counting trains"""
import argparse, io, shutil, tempfile
from pathlib import Path
import numpy as np
from PIL import Image
from playwright.sync_api import sync_playwright
from genderres.app import open_app
from genderres.classifier import GenderClassifier
from genderres.portraits import draw_crowd, sample_portraits
from genderres.video import Walk, draw_clip

def keep(page, name, width=1000):
    "Store what is on the page, as WebP"
    page.wait_for_timeout(1200)
    im = Image.open(io.BytesIO(page.screenshot(full_page=True, animations='disabled'))).convert('RGB')
    im.thumbnail((width, 10_000))
    im.save(Path(__file__).parent.parent/'nbs'/'images'/f'app_{name}.webp', quality=80, method=6)

def panel(page): return page.get_by_role('tabpanel').locator('visible=true').first

def ask(page, tab, button, files=()):
    "Open a tab, upload files, and press a button"
    page.get_by_role('tab', name=tab).click()
    if files:
        panel(page).locator('input[type=file]').first.set_input_files(files)
        page.wait_for_timeout(1500)
    panel(page).get_by_role('button', name=button, exact=True).click()

def pictures(page, crowds, clip):
    "All tabs"
    ask(page, 'Try', 'Judge', crowds)
    panel(page).locator('.prose table').wait_for()
    panel(page).get_by_role('button', name='Where did it look?').click()
    panel(page).locator('img[alt="What spoke for the answer"]').wait_for()
    keep(page, 'try')
    ask(page, 'Count', 'Count', [clip])
    panel(page).locator('pre').wait_for()
    keep(page, 'count')
    page.get_by_role('tab', name='Evaluate').click()
    page.get_by_label('Labelled photos').click()
    page.get_by_role('option', name='photos.csv').click()
    page.get_by_label('Compare groups by').click()
    page.get_by_role('option', name='place').click()
    ask(page, 'Evaluate', 'Evaluate')
    panel(page).locator('img[alt="Shares and intervals by group"]').wait_for()
    keep(page, 'evaluate')
    ask(page, 'Clean', 'Find suspects')
    page.locator('figure').first.wait_for(timeout=200_000)
    for key in ('x', '1', '2'):
        page.keyboard.press(key)
        page.wait_for_timeout(800)
    keep(page, 'clean')

def main(model):
    "Draw, open the page, and take the pictures"
    work = Path(tempfile.mkdtemp())
    photos = sample_portraits(work/'photos', n=120, size=128, seed=7)
    files = sorted(photos.glob('*/*.jpg'))
    for i in (3, 8): shutil.move(files[i], photos/'women'/files[i].name)
    files = sorted(photos.glob('*/*.jpg'))
    rows = [f"{o.relative_to(photos)},{o.parent.name},{'hall' if i % 3 else 'garden'}" for i,o in enumerate(files)]
    (photos/'photos.csv').write_text('\n'.join(['file,label,place', *rows]))
    shutil.copy(files[70], photos/'men'/'again.jpg')
    (photos/'men'/'letter.jpg').write_text('Dear Sir or Madam')
    crowds = [work/f'{o}.jpg' for o in ('garden', 'party')]
    for i,o in enumerate(crowds):
        draw_crowd(['women', 'men', 'women', 'men'], np.random.default_rng((12, 22)[i]), (960, 540))[0].save(o)
    clip = draw_clip(work/'door.mp4', [Walk('men', 3, 0, 2, [(.2, .5), (.8, .5)]),
                                       Walk('women', 8, 1, 3, [(.8, .4), (.2, .4)]),
                                       Walk('women', 5, 3, 5, [(.3, .6), (.7, .6)])], fps=10)
    clf = GenderClassifier.load(model, 'cpu')
    clf.facts['abstain'] = .7
    with open_app(clf, photos, work/'decisions.csv') as address, sync_playwright() as p:
        browser = p.chromium.launch(executable_path=shutil.which('chromium'),
                                    args=['--headless', '--no-sandbox', '--disable-gpu'])
        page = browser.new_page(viewport=dict(width=1100, height=700), locale='en')
        page.set_default_timeout(60_000)
        page.goto(address)
        page.wait_for_timeout(2000)
        pictures(page, crowds, clip)
        page = browser.new_page(viewport=dict(width=360, height=700), locale='de')
        page.goto(address)
        page.wait_for_timeout(2000)
        ask(page, 'Ausprobieren', 'Beurteilen', crowds[:1])
        panel(page).locator('.prose table').wait_for()
        keep(page, 'narrow', 360)
        browser.close()

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('model', type=Path, help='a classifier of faces, .safetensors')
    main(p.parse_args().model)
