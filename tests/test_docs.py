"The documentation hangs together: the sidebar, the links, and what nbdev does to every notebook before Quarto"
import json, re, shutil, subprocess, sys
from collections import Counter
from pathlib import Path
from urllib.parse import unquote
import pytest, yaml
from nbdev.config import nbpath2html

root = Path(__file__).resolve().parent.parent
nbs = root/'nbs'
notebooks = [o for o in sorted(nbs.rglob('*.ipynb')) if not any(p[0] in '._' for p in o.relative_to(nbs).parts)]
# llms.txt names pages of the site
pages = {nbs/f'{nbpath2html(o.relative_to(nbs))}{end}' for o in notebooks for end in ('', '.md')}

def entries(o):
    "The files in Quarto's sidebar"
    if isinstance(o, str): return [o]
    if isinstance(o, list): return [f for e in o for f in entries(e)]
    return [o[k] for k in ('href',) if k in o] + entries(o.get('contents', []))

def prose(file):
    "The Markdown of a file, without code"
    text = file.read_text(encoding='utf-8')
    if file.suffix == '.ipynb':
        text = '\n\n'.join(''.join(o['source']) for o in json.loads(text)['cells'] if o['cell_type'] == 'markdown')
    text = re.sub(r'^ *(```|~~~).*?^ *\1', '', text, flags=re.M|re.S)
    return re.sub(r'`[^`\n]+`', lambda m: re.sub(r'[][()<>]', '', m[0]), text)

def links(file):
    return [max(o) for o in re.findall(r'\]\(<?([^\s)>]+)|(?:src|href)=["\']([^"\']+)|^\[[^\]]+\]:\s*(\S+)',
                                       prose(file), flags=re.M)]

def norm(o):   # Jupyter, GitHub and Quarto differ in case and punctuation
    return re.sub(r'[^\w-]', '', o.strip().replace(' ', '-').lower())

def anchors(file):
    return {norm(o) for line in re.findall(r'^#+ +(.+)', prose(file), flags=re.M)
            for o in re.fullmatch(r'(.*?)(?:\{#([^} ]+).*\})?', line).groups('')}

def problem(file, link):
    name, _, part = unquote(link).partition('#')
    to = (file.parent/name).resolve() if name else file
    if not to.exists() and to not in pages: return 'no such file'
    if part and to.suffix in ('.ipynb', '.md') and to.exists() and norm(part) not in anchors(to):
        return 'no such heading'

def test_sidebar_lists_every_notebook_once():
    listed = Counter(entries(yaml.safe_load((nbs/'sidebar.yml').read_text(encoding='utf-8'))['website']['sidebar']))
    there = Counter(o.relative_to(nbs).as_posix() for o in notebooks)
    assert listed == there, f'nbs/sidebar.yml lacks {sorted(there - listed)} and has too much: {sorted(listed - there)}'

def test_links_lead_somewhere():
    files = [*notebooks, *(root/o for o in ('README.md', 'CONTRIBUTING.md', 'SECURITY.md', 'nbs/llms.txt'))]
    inside = [(o, link) for o in files for link in links(o) if not re.match(r'[a-z][a-z0-9+.-]*:|//', link)]
    bad = [f'{o.relative_to(root).as_posix()}: {link}: {why}' for o,link in inside if (why := problem(o, link))]
    assert inside and not bad, '\n'.join(bad)

@pytest.mark.slow
def test_nbdev_prepares_every_notebook(tmp_path):
    for o in ('nbs', 'benchmarks'):
        shutil.copytree(root/o, tmp_path/o, ignore=shutil.ignore_patterns('.ipynb_checkpoints', '_proc'))
    shutil.copy(root/'pyproject.toml', tmp_path)
    each = ('import sys\nfrom pathlib import Path\nfrom nbdev.processors import FilterDefaults\n'
            'from nbdev.serve_drv import main\nfor o in sys.argv[1:]:\n'
            '    try: main((Path(o), Path(o.replace("/", "-")), FilterDefaults))\n'
            '    except Exception as e: print(f"{o}: {e}")')
    args = [o.relative_to(root).as_posix() for o in notebooks]
    res = subprocess.run([sys.executable, '-c', each, *args], cwd=tmp_path, capture_output=True, text=True,
                         encoding='utf-8')
    assert res.returncode == 0 and not res.stdout, res.stdout or res.stderr
