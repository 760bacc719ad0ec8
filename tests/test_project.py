"What is made from the notebooks is up to date, and the package builds and imports"
import ast, configparser, json, os, re, shutil, subprocess, sys, zipfile
from pathlib import Path
import pytest

root = Path(__file__).resolve().parent.parent

def run(*args, **kwargs):
    res = subprocess.run([str(o) for o in args], capture_output=True, text=True, encoding='utf-8', **kwargs)
    assert res.returncode == 0, f"{args}:\n{res.stdout}\n{res.stderr}"
    return res.stdout

@pytest.fixture(scope='module')
def fresh(tmp_path_factory):
    "A copy of the project in which everything was generated anew"
    new = tmp_path_factory.mktemp('fresh')/'genderres'
    new.mkdir()
    for o in ('nbs', 'benchmarks'):
        shutil.copytree(root/o, new/o, ignore=shutil.ignore_patterns('.ipynb_checkpoints', '_proc'))
    shutil.copytree(root/'genderres', new/'genderres', ignore=shutil.ignore_patterns('__pycache__'))
    for o in ('settings.ini', 'setup.py', 'pyproject.toml', 'README.md', 'LICENSE', 'MANIFEST.in'):
        shutil.copy(root/o, new/o)
    run(sys.executable, '-c', 'from nbdev.doclinks import nbdev_export; nbdev_export()', cwd=new)
    run(sys.executable, '-c', 'from nbdev.clean import nbdev_clean; nbdev_clean()', cwd=new)
    run(sys.executable, '-m', 'nbconvert', '--config', 'nbs/readme_config.py', cwd=new)
    return new

def same(new, pattern):
    files = [o.relative_to(root) for o in sorted(root.glob(pattern)) if '.ipynb_checkpoints' not in o.parts]
    assert files
    return [str(o) for o in files if (new/o).read_bytes() != (root/o).read_bytes()]

def test_export_is_up_to_date(fresh): assert same(fresh, 'genderres/*.py') == [], 'run: make prepare'
def test_notebooks_are_clean(fresh): assert same(fresh, 'nbs/**/*.ipynb') == [], 'run: make prepare'
def test_readme_is_up_to_date(fresh): assert same(fresh, 'README.md') == [], 'run: make prepare'

def test_stored_outputs_hold_no_errors_and_no_paths():
    for nb in root.glob('nbs/**/*.ipynb'):
        for cell in json.loads(nb.read_text(encoding='utf-8'))['cells']:
            for out in cell.get('outputs', []):
                assert out['output_type'] != 'error', nb.name
                assert not re.search(r'site-packages|/(home|root|Users)/', json.dumps(out)), (
                    f'{nb.name}: a path of this machine in an output')

def code_cells(notebook):
    "The sources of a notebook's code cells, without lines that only IPython understands"
    for cell in json.loads(notebook.read_text(encoding='utf-8'))['cells']:
        if cell['cell_type'] != 'code': continue
        source = ''.join(cell['source'])
        if not source.startswith('%%'): yield re.sub(r'^(\s*)(?:\w+ *= *)?[%!](?!=).*$', r'\1pass', source, flags=re.M)

def tree(file):
    return ast.parse('\n'.join(code_cells(file)) if file.suffix == '.ipynb' else file.read_text(encoding='utf-8'))

def imports(file):
    "(module, name) of each import from this package, with the line; the name is '' where a whole module is imported"
    for o in ast.walk(tree(file)):
        if isinstance(o, ast.Import):
            yield from ((a.name.partition('.')[2], '', o.lineno) for a in o.names
                        if a.name.split('.')[0] == 'genderres')
        elif isinstance(o, ast.ImportFrom) and (o.level or (o.module or '').split('.')[0] == 'genderres'):
            module = o.module or '' if o.level else o.module.partition('.')[2]
            yield from ((module, a.name, o.lineno) if module else (a.name, '', o.lineno) for a in o.names)

def module_of(notebook):
    "The module that a notebook exports"
    found = [m[1] for o in code_cells(notebook) if (m := re.search(r'^#\| *default_exp +(\w+)', o, flags=re.M))]
    assert len(found) == 1, f'{notebook.name}: {len(found)} cells with `#| default_exp`'
    return found[0]

numbered = sorted((root/'nbs').glob('[0-9]*.ipynb'))

def test_no_notebook_imports_a_higher_number():
    number = {module_of(o): int(o.name.split('_')[0]) for o in numbered}
    assert len({*number.values()}) == len(number), 'two notebooks have one number'
    number['all'] = max(number.get(o, 0) for o,_,_ in imports(root/'genderres'/'all.py'))
    bad = [f'{nb.name} imports genderres.{module}' for nb in numbered for module,_,_ in imports(nb)
           if module in number and number[module] >= int(nb.name.split('_')[0])]
    assert not bad, '\n'.join(sorted({*bad}))

def test_no_private_name_is_imported():
    bad = []
    for pattern in ('nbs/**/*.ipynb', 'genderres/*.py', 'benchmarks/*.py', 'pretrain/*.py', 'tests/*.py'):
        for file in sorted(root.glob(pattern)):
            if '.ipynb_checkpoints' in file.parts: continue
            found = [o for o in imports(file) if re.match('_(?!_)', o[1])]
            # a test may look into the one module that it tests
            own = pattern.startswith('tests') and len({o[0] for o in found}) == 1
            if not own:
                bad += [f'{file.relative_to(root).as_posix()}:{line}: {module}.{name}' for module,name,line in found]
    assert not bad, '\n'.join(bad)

def test_one_name():
    ini = configparser.ConfigParser()
    ini.read(root/'settings.ini', encoding='utf-8')
    assert f'name = "{ini["DEFAULT"]["lib_name"]}"' in (root/'pyproject.toml').read_text(encoding='utf-8')

def test_lowest_python_is_the_same_everywhere():
    ini = configparser.ConfigParser()
    ini.read(root/'settings.ini', encoding='utf-8')
    low = ini['DEFAULT']['min_python']
    assert f'Python {low} or later' in (root/'README.md').read_text(encoding='utf-8')
    assert f"python: ['{low}'," in (root/'.github/workflows/test.yml').read_text(encoding='utf-8')

def test_wheel_builds_and_imports_in_an_empty_environment(fresh, tmp_path):
    run(sys.executable, '-m', 'build', '--wheel', '--outdir', tmp_path/'dist', cwd=fresh)
    wheel, = (tmp_path/'dist').glob('*.whl')
    tops = {o.split('/')[0] for o in zipfile.ZipFile(wheel).namelist()}
    assert all(o.startswith('genderres') for o in tops), tops
    run(sys.executable, '-m', 'venv', tmp_path/'env')
    py = tmp_path/'env'/('Scripts/python.exe' if os.name == 'nt' else 'bin/python')
    run(py, '-m', 'pip', 'install', '--quiet', '--no-deps', wheel)
    version = run(py, '-c', 'import genderres; print(genderres.__version__)', cwd=tmp_path).strip()
    assert version in wheel.name
    # with the requirements in reach, but this checkout not: the modules of the wheel import too
    import fastai
    site = Path(fastai.__file__).parent.parent
    where = run(py, '-c', 'import genderres.all as g; print(g.gender_dls.__code__.co_filename)', cwd=tmp_path,
                env={**os.environ, 'PYTHONPATH': str(site)})
    assert str(tmp_path/'env') in where

def test_percentages_have_no_space():
    "95%, as everywhere; the names of stored measurements keep theirs"
    texts = {o: o.read_text(encoding='utf-8')
             for o in [*root.glob('*.md'), *root.glob('nbs/*.txt'), *root.glob('genderres/*.py')]}
    texts |= {o: '\n'.join(''.join(c['source']) for c in json.loads(o.read_text(encoding='utf-8'))['cells'])
              for o in root.glob('nbs/**/*.ipynb')}
    assert [f"{o.name}: {m[0]}" for o,text in texts.items()
            for m in re.finditer(r'(?<!cut by )\b\d+ %(?![ \w]*\d)', text)] == []
