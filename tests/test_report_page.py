"A page of HTML that needs nothing else, and from which nothing can break out"
import base64, re, shutil
from html.parser import HTMLParser
import matplotlib.pyplot as plt, numpy as np, pandas as pd, pytest
from genderres.audit import Audit
from genderres.check import check_images
from genderres.cli import app
from genderres.interpret import GenderInterpretation
from genderres.page import answer_sections, check_sections, page, write_page
from typer.testing import CliRunner

class Parts(HTMLParser):
    "The tags of a page, their attributes, and what is still open"
    def __init__(self, text):
        super().__init__()
        self.tags, self.attrs, self.open = [], [], []
        self.feed(text)
    def handle_starttag(self, tag, attrs):
        self.tags.append(tag); self.attrs += attrs
        if tag not in ('meta', 'img', 'br'): self.open.append(tag)
    def handle_endtag(self, tag): assert self.open.pop() == tag

def safe(text):
    "The parts of a page that is whole, runs nothing, and loads nothing"
    parts = Parts(text)
    assert not parts.open and not {'script', 'iframe', 'object', 'link', 'svg', 'form'} & {*parts.tags}
    names = {k for k,_ in parts.attrs}
    assert names <= {'lang', 'charset', 'name', 'content', 'http-equiv', 'class', 'src', 'alt', 'tabindex', 'role',
                     'aria-label', 'style', 'border', 'rowspan'}, names
    assert (all(v.startswith('data:image/') for k,v in parts.attrs if k == 'src')
            and 'url(' not in text and '@import' not in text)
    assert "default-src 'none'" in text and 'presented gender' in text and 'width=device-width' in text
    return parts

hostile = ['<script>alert(1)</script>.jpg', '"onerror="alert(1).jpg', "'><img src=x onerror=alert(1)>.jpg",
           'a\nb\u202egpj.exe', 'x\udcff.jpg', '&lt;.jpg']

def answers(n=40, vocab=('men', 'women'), names=None, **kwargs):
    targs = np.arange(n) % len(vocab)
    probs = np.random.default_rng(0).dirichlet(np.ones(len(vocab)), n)
    items = pd.DataFrame(dict(file=names or [f'{i}.jpg' for i in range(n)]), dtype=object)
    return GenderInterpretation.from_answers(probs, targs, items, vocab)

@pytest.mark.parametrize('vocab', [['men', 'women'], ['<b>', '"\'&', 'c'], ['men', 'women', 'o']])
def test_names_stay_names(tmp_path, vocab):
    interp = answers(30, vocab, [hostile[i % 6] for i in range(30)])
    write_page(tmp_path/'a.html', hostile[0], [
        *answer_sections(interp, k=30),
        (hostile[1], [hostile[2], hostile,
                      pd.DataFrame({hostile[0]: hostile}, pd.Index(hostile, dtype=object), dtype=object)])])
    text = (tmp_path/'a.html').read_text(encoding='utf-8')
    safe(text)
    assert '&lt;script&gt;alert(1)&lt;/script&gt;.jpg' in text and '\u202e' not in text and r'\udcff' in text

def test_a_file_name_that_is_hostile_in_a_check(photos, tmp_path):
    men = sorted((photos/'men').iterdir())
    for i,o in enumerate(hostile[1:]): shutil.copy(men[i], photos/'women'/o.replace('/', '_').replace('\udcff', 'y'))
    (photos/'men'/'<script>.jpg').write_bytes(b'no image')
    text = page('check', check_sections(check_images(photos, verbose=False)))
    safe(text)
    assert 'men/&lt;script&gt;.jpg' in text and str(photos) not in text

def test_every_number_has_interval_and_count():
    plt.close('all')
    text = page('a', answer_sections(answers()))
    for name in ('accuracy', 'recall men', 'recall women'):
        assert re.search(rf'<th>{name}</th>\s*<td>[\d.]+%</td>\s*<td>[\d.]+% to [\d.]+%</td>\s*'
                         r'<td>\d+ of \d+</td>', text)
    assert re.search(r'\d+ of 40 photos right: [\d.]+%, with a 95% interval from', text)
    assert all(alt for alt in re.findall('<img [^>]*alt="([^"]*)"', text)) and plt.get_fignums() == []

def test_photos_are_small(photos):
    files = [str(o) for o in sorted(photos.glob('*/*'))]
    text = page('a', answer_sections(answers(len(files), names=files), k=12))
    thumbs = re.findall('data:image/jpeg;base64,([^"]*)"', text)
    assert len(thumbs) == 12 and max(map(len, thumbs)) < 20_000 and len(text) < 300_000
    assert base64.b64decode(thumbs[0])[:2] == b'\xff\xd8'

def test_many_odd_files_are_counted():
    table = pd.DataFrame(dict(file=[f'/p/men/{i}.jpg' for i in range(500)], label='men', split='', usable=False,
                              problem='empty file', odd='unreadable', detail='empty file', width=0, height=0,
                              format='', bytes=0, group='', id=''))
    table.attrs.update(copies=0, torn=0, torn_at_random=0)
    text = page('a', check_sections(table))
    assert '... and 300 more' in text and 'left where they are: 500' in text and text.count('<tr>') < 210
    safe(text)

def test_answers_without_probabilities(tmp_path):
    table = pd.DataFrame(dict(file=['a.jpg', 'b.jpg'], label=['men', 'women'], prediction=['men', 'men'], problem=''))
    text = page('a', Audit(table, ['men', 'women']).sections())
    assert 'Calibration' not in text and 'no probabilities' in text and '1 of 2 photos right' in text

def run(*args, code=0):
    res = CliRunner().invoke(app, [str(o) for o in args], prog_name='genderres')
    assert res.exit_code == code, res.output
    return res.output

def test_check_writes_a_report_when_told(photos, tmp_path):
    before = sorted(photos.rglob('*'))
    assert 'The report is' not in run('check', photos) and sorted(photos.rglob('*')) == before
    for where in (tmp_path, photos, photos/'men'):   # also among the photos, where it is not taken for one
        assert f'The report is {where/"report.html"}' in run('check', photos, '--report', where/'report.html')
        safe((where/'report.html').read_text())
        assert len(check_images(photos, verbose=False)) == len(before) - 2
    assert 'say --overwrite' in run('check', photos, '--report', tmp_path/'report.html', code=2)
    run('check', photos, '--report', tmp_path/'report.html', '--overwrite')
    assert 'must end in .html' in run('check', photos, '--report', tmp_path/'report.pdf', code=2)

def test_audit_with_groups(photos, tmp_path):
    "Labels in a folder: the photos are shown; labels in a table: groups are compared"
    files = sorted(o.relative_to(photos) for o in photos.glob('*/*'))
    said = np.random.default_rng(0).random(len(files))
    pd.DataFrame(dict(file=files, men=said, women=1 - said)).to_csv(tmp_path/'answers.csv', index=False)
    run('audit', tmp_path/'answers.csv', photos, '--report', tmp_path/'a.html')
    assert safe((tmp_path/'a.html').read_text()).tags.count('img') > 10
    pd.DataFrame(dict(file=files, label=[o.parent.name for o in files],
                      age=['young', 'old']*(len(files)//2))).to_csv(tmp_path/'labels.csv', index=False)
    run('audit', tmp_path/'answers.csv', tmp_path/'labels.csv', '--by', 'age', '--report', tmp_path/'b.html')
    text = (tmp_path/'b.html').read_text()
    safe(text)
    assert 'By age' in text and 'young' in text and 'Answering only when at least so sure' in text

def test_evaluate(photos, untrained, tmp_path):
    run('evaluate', untrained, photos, '--report', tmp_path/'a.html')
    text = (tmp_path/'a.html').read_text()
    safe(text)
    assert 'Evaluation on' in text and 'Confusion matrix' in text and 'Largest losses' in text

def test_in_a_browser(photos, tmp_path):
    "On a telephone, in light and dark: nothing is loaded, nothing runs, nothing sticks out, and axe finds no fault"
    sync_api = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
    Axe = pytest.importorskip('axe_playwright_python.sync_playwright', reason='axe is not installed').Axe
    if not (chromium := shutil.which('chromium')): pytest.skip('there is no Chromium')
    files = [str(o) for o in sorted(photos.glob('*/*'))]
    (photos/'men'/'<img src=x onerror=alert(1)>.jpg').write_bytes(b'no image')
    sections = [*answer_sections(answers(len(files), names=files)),
                *check_sections(check_images(photos, verbose=False)),
                ('Surest', [pd.DataFrame({'answered': '100.0%', 'wrong': '40.0%', 'at most': '56.6%',
                                          'counts': '12 of 30'}, index=['0.508'])])]
    write_page(tmp_path/'a.html', hostile[2], sections)
    with sync_api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=['--headless', '--no-sandbox', '--disable-gpu',
                                                                    '--disable-background-networking'])
        for scheme in ('light', 'dark'):
            tab, asked = browser.new_page(viewport=dict(width=360, height=640), color_scheme=scheme,
                                          bypass_csp=True), []   # axe is a script
            for o in ('request', 'dialog', 'pageerror'):
                tab.on(o, lambda o: asked.append(getattr(o, 'url', 'a script ran')[:40]))
            tab.goto(f'file://{tmp_path}/a.html')
            assert tab.evaluate('document.documentElement.scrollWidth') == 360
            lines = ('o => { const all = document.createRange(); all.selectNodeContents(o); '
                     'return all.getClientRects().length }')
            assert tab.locator('th', has_text='0.508').evaluate(lines) == 1   # a number is not broken
            assert [o for o in asked if not o.startswith('data:')] == [f'file://{tmp_path}/a.html'[:40]]
            assert not [(o['id'], o['nodes'][0]['html']) for o in Axe().run(tab).response['violations']]
        browser.close()
