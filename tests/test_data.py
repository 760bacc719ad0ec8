"Checking, splitting and deciding: every file accounted for, no copy on both sides, nobody moved"
import _thread, os, shutil, subprocess, sys, time
from pathlib import Path
import numpy as np, pandas as pd, pytest
from genderres import check
from genderres.check import check_images, check_summary
from genderres.data import gender_dls
from genderres.photos import photos_from_folder
from genderres.split import save_split, split_photos
from genderres.portraits import draw_portrait, sample_portraits
from PIL import Image
from test_bad_input import snapshot

@pytest.fixture
def corpus(awkward, photos):
    "The awkward files as one class of two"
    path, known = awkward
    shutil.rmtree(photos/'men')
    path.rename(photos/'men')
    return photos, {k.replace(str(path), str(photos/'men')): ok for k,ok in known.items()
                    if 'link.jpg' not in k or 'hard' in k}

@pytest.mark.filterwarnings('ignore')
def test_every_awkward_file_is_accounted_for(corpus, capsys):
    path, known = corpus
    assert len(known) >= 60
    before, links = snapshot(path/'women'), sorted(os.fsencode(o) for o in path.rglob('*'))
    found = {os.path.join(d, f) for d,_,fs in os.walk(path, followlinks=True) for f in fs}
    table = check_images(path)
    assert {*table.file} == found and len(table) == len(found)
    usable = dict(zip(table.file, table.usable))
    assert {k: usable[k] for k in known} == known
    assert all(table.problem[~table.usable]) and all(table.detail[table.odd != ''])
    assert (table.usable == (table.id != '')).all() and (table.usable == (table.problem == '')).all()
    assert (f'{len(found)} files: {sum(usable.values())} can be used, {len(found) - sum(usable.values())} cannot'
            in capsys.readouterr().out)
    dls = gender_dls(path, size=32, bs=8, num_workers=0)
    assert sum(len(o.dataset) for o in dls.loaders) + (~dls.photos.usable).sum() == len(found)
    for x,y in dls.valid: assert x.isfinite().all()
    assert snapshot(path/'women') == before and sorted(os.fsencode(o) for o in path.rglob('*')) == links
    assert not (Path.cwd()/'owned').exists()   # what the PostScript program would have made

@pytest.mark.filterwarnings('ignore')
def test_what_is_odd_about_awkward_files(corpus):
    path, known = corpus
    table = check_images(path, verbose=False)
    kind = {os.path.relpath(f, path/'men'): p for f,p in zip(table.file, table.odd)}
    for name,word in {'empty.jpg': 'unreadable', 'text.jpg': 'not an image', 'program.jpg': 'not an image',
                      'bomb.png': 'unreadable', 'png.jpg': 'wrong extension', 'one pixel.png': 'tiny',
                      'wide.png': 'extreme aspect', 'hard link.jpg': 'exact duplicate', 'film.jpg': 'not an image',
                      'half.webp': 'damaged', 'cut 3.jpg': 'not an image'}.items():
        assert word in kind[name], (name, kind[name])
    assert [v for k,v in kind.items() if k.startswith('cut') and 'truncated' in v]

def test_a_file_that_vanishes_while_being_read(photos, monkeypatch):
    gone = sorted((photos/'men').iterdir())[:3]
    real = check.examine
    def examine(file, then=None):
        if Path(file) in gone: Path(file).unlink()
        return real(file, then)
    monkeypatch.setattr(check, 'examine', examine)
    table = check_images(photos, verbose=False)
    assert (len(table) == 20 and {*table.file[~table.usable]} == {*map(str, gone)}
            and (table.odd[~table.usable] == 'unreadable').all())

@pytest.mark.skipif(sys.platform == 'win32', reason='permissions work differently there')
def test_no_permission(photos, tmp_path_factory):
    "Also where the tests run as root, who may read anything: the check then runs as somebody else"
    # pytest's own folder, closed to others; nothing above it is touched
    base = tmp_path_factory.getbasetemp().parents['PYTEST_XDIST_WORKER' in os.environ]
    closed = {o: o.stat().st_mode for o in photos.parents if o == base or base in o.parents}
    for o in closed: o.chmod(0o755)
    secret = sorted((photos/'men').iterdir())[0]
    secret.chmod(0)
    code = ("import joblib, os, sys, torch, warnings\nwarnings.simplefilter('ignore')\n"   # nobody else may read these
            "from genderres.check import check_images\n"
            "if os.geteuid() == 0: os.seteuid(65534)\nt = check_images(sys.argv[1], verbose=False)\n"
            "print(t.odd[~t.usable].tolist(), t.detail[~t.usable].tolist())\n"
            "os.seteuid(os.getuid())\nos.chmod(sys.argv[1] + '/women', 0)\nif os.geteuid() == 0: os.seteuid(65534)\n"
            "try: check_images(sys.argv[1])\nexcept PermissionError as e: print('refused', e.filename)")
    try: res = subprocess.run([sys.executable, '-c', code, photos], capture_output=True, text=True)
    finally:
        for o in (secret, photos/'women'): o.chmod(0o755)
        for o,mode in closed.items(): o.chmod(mode)
    assert res.stdout.splitlines() == [
        "['unreadable'] ['no permission to read it']", f'refused {photos/"women"}'], res.stderr[-2000:]

def planted(path, n=40):
    "`n` portraits, each with a copy: resized, mirrored, recompressed, brighter or cut"
    doings = [lambda o: o.resize((90, 110)), lambda o: o.transpose(Image.FLIP_LEFT_RIGHT),
              lambda o: o.point(lambda v: min(255, int(v*1.15))), lambda o: o.crop((6, 4, 122, 124))]
    for i in range(n):
        c = ('men', 'women')[i % 2]
        (path/c).mkdir(parents=True, exist_ok=True)
        im = draw_portrait(c, np.random.default_rng(i), 128)
        im.save(path/c/f'{i:03}.png'); doings[i//2 % 4](im).save(path/c/f'{i:03} copy.jpg', quality=70)
    return path

who = lambda table: table.file.map(lambda o: Path(o).stem[:3])

def test_copies_stay_together_and_the_plain_split_tears_them(tmp_path):
    path = planted(tmp_path/'p')
    table = check_images(path, verbose=False)
    assert table.attrs['copies'] >= 38 and (table.odd == 'near duplicate').sum() >= 38
    for seed in range(5):
        split = split_photos(table, seed=seed)
        assert (split.groupby(who(split).to_numpy()).split.nunique() > 1).sum() <= 2
    with pytest.warns(UserWarning, match=r'tears \d+ of \d+ pairs of copies apart'):
        dls = gender_dls(path, split='random', size=32, num_workers=0)
    assert (dls.photos.groupby(who(dls.photos).to_numpy()).split.nunique() > 1).sum() > 5
    assert (dls.photos.split == 'valid').sum() == 16   # the paper's split is exact

def test_a_copy_in_the_source_s_own_split_is_named(tmp_path):
    table = photos_from_folder(planted(tmp_path/'p', 8))
    table = table.assign(split=['valid' if 'copy' in Path(o).name else 'train' for o in table.file])[
        ['file', 'label', 'split']]
    checked = check_images(table, verbose=False)
    assert checked.odd.str.contains('duplicate across splits').sum() >= 14 and 'tears' in check_summary(checked)
    with pytest.warns(UserWarning, match='tears'): dls = gender_dls(table, num_workers=0, size=32)
    assert (dls.photos.split == table.split).all()   # warned about, not changed

@pytest.mark.parametrize('seed', range(5))
def test_nobody_changes_sides(tmp_path, seed):
    "More photos, other names, another folder"
    small, large = sample_portraits(tmp_path/'s', n=60, size=64), sample_portraits(tmp_path/'l', n=200, size=64)
    side = lambda path: {r.id: r.split for r in split_photos(check_images(path, verbose=False), seed=seed).itertuples()}
    first = side(small)
    for i,o in enumerate(small.rglob('*.jpg')): o.rename(o.with_name(f'{i} renamed.jpg'))
    assert side(small) == first
    shutil.copytree(large, small, dirs_exist_ok=True)
    later = side(small)
    assert len(later) > len(first) and {k: later[k] for k in first} == first
    assert .1 < np.mean([o == 'valid' for o in later.values()]) < .3

def test_groups_of_a_table(photos):
    "A person is on one side, whatever the column is called; blanks stand alone; copies tie persons together"
    found = photos_from_folder(photos)[['file', 'label']]
    shutil.copy(found.file[0], photos/'men'/'again.jpg')
    found = pd.concat([found, pd.DataFrame(dict(file=[str(photos/'men'/'again.jpg')], label='men'))], ignore_index=True)
    people = [f'p{i//3}' for i in range(20)] + ['somebody']
    for kwargs in (dict(), dict(group_col='session')):
        table = found.assign(**{kwargs.get('group_col', 'person'): people})
        for seed in range(6):
            split = split_photos(check_images(table, verbose=False, **kwargs), seed=seed)
            assert (split.groupby(people).split.nunique() == 1).all()
            assert split.split[0] == split.split[20]
    alone = check_images(found.assign(person=[None, '', ' ']*7), verbose=False)
    assert (alone.group[1:20] == '').all() and alone.group[0] == alone.group[20] != ''
    with pytest.raises(ValueError, match="no column 'who'"): check_images(found, group_col='who')

def test_a_class_never_lacks_a_part(photos):
    "Ten photos a class: by chance one in nine classes would have no validation photo"
    table = check_images(photos, verbose=False)
    for seed in range(40):
        split = split_photos(table, seed=seed, test_pct=.2)
        assert split.groupby('label').split.nunique().eq(3).all(), seed

def test_saved_split(photos, tmp_path):
    "Read back as a source it is the same; a newcomer that is a copy goes where its original is"
    dls = gender_dls(photos, size=32, num_workers=0)
    save_split(dls, tmp_path/'split.csv')
    again = gender_dls(tmp_path/'split.csv', size=32, num_workers=0)
    assert again.photos.split.tolist() == dls.photos.split.tolist()
    with pytest.raises(FileExistsError): save_split(dls, tmp_path/'split.csv')
    old = dict(zip(dls.photos.id, dls.photos.split))
    # larger: names the group
    for i,o in enumerate(sorted(photos.rglob('*.jpg'))):
        Image.open(o).resize((256, 256)).save(o.with_name(f'large {i}.png'))
    more = gender_dls(photos, split=tmp_path/'split.csv', seed=7, size=32, num_workers=0).photos
    assert {k: v for k,v in zip(more.id, more.split) if k in old} == old
    for _,g in more.groupby('group'): assert g.split.nunique() == 1 or g.group.iloc[0] == ''
    with pytest.raises(ValueError, match="split='random2'"): gender_dls(photos, split='random2', num_workers=0)
    with pytest.raises(ValueError, match='together below 1'):
        gender_dls(photos, valid_pct=.6, test_pct=.4, num_workers=0)

def test_the_check_can_be_interrupted(interruptible, monkeypatch):
    "What has not begun does not begin"
    seen = []
    def slow(file, then=None):
        seen.append(file); time.sleep(.01)
        if len(seen) == 40: _thread.interrupt_main()
        return {'problem': 'slow'}, None
    monkeypatch.setattr(check, 'examine', slow)
    files = pd.DataFrame(dict(file=[f'{i}.jpg' for i in range(2000)], label='men'))
    with pytest.raises(KeyboardInterrupt): check_images(files)
    assert 40 <= len(seen) < 1500
