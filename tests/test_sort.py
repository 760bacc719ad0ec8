"Sorting photos by their answers: whatever the names, nothing that was there changes"
import hashlib, json, os, shutil
from pathlib import Path
import pandas as pd, pytest
import genderres.sort as sort
from genderres.cli import app
from genderres.predict import OnnxClassifier
from genderres.sort import predict_sorted, sort_photos
from typer.testing import CliRunner

def run(*args, code=0):
    res = CliRunner().invoke(app, [*map(str, args)])
    assert res.exit_code == code, res.output
    return res

def state(path):
    "Size, time and kind of everything below `path`, and the content of what is not huge"
    def one(o):
        s = o.lstat()
        content = (hashlib.sha256(o.read_bytes()).hexdigest()
                   if o.is_file() and 0 < o.stat().st_size < 10**6 and not o.is_symlink() else '')
        return s.st_mode, s.st_size, s.st_mtime_ns, content
    return {str(o): one(o) for o in path.rglob('*')}

@pytest.fixture
def onnx(untrained): return OnnxClassifier(untrained.with_suffix('.onnx'))

def test_awkward_files(awkward, onnx, tmp_path):
    "A place for every file, one photo in each place, and the originals as they were"
    path, known = awkward
    before, folder = state(path), tmp_path/'sorted'
    for _ in range(2):
        table = predict_sorted(onnx, path, folder, progress=False)
        assert state(path) == before
        assert {*table.file} == {*known}
        assert (table.place[[known[o] for o in table.file]] != '').all()
        assert {o.split('/')[0] for o in table.place} <= {'men', 'women', 'problem', ''}
        placed = table[table.place != '']
        assert all(os.path.samefile(folder/p, f) and os.readlink(folder/p) == f
                   for f,p in zip(placed.file, placed.place))
        # manifest.csv, sorting.json
        assert len({*placed.place}) == len(placed) == sum(len(fs) for _,_,fs in os.walk(folder)) - 2
    manifest = pd.read_csv(folder/'manifest.csv', encoding_errors='surrogateescape', dtype=object,
                           keep_default_na=False)
    assert manifest.place.tolist() == table.place.tolist()
    bad = {Path(o).name for o in table.file[table.place == '']}
    # no regular files
    assert bad <= {'pipe.jpg', 's', 'dangling.jpg', 'loop.jpg', 'endless.jpg'} and 'endless.jpg' in bad

def test_copies_of_awkward_files(awkward, onnx, tmp_path):
    path, known = awkward
    (path/'huge.jpg').unlink()
    before = state(path)
    table = predict_sorted(onnx, path, tmp_path/'sorted', copy=True, progress=False)
    assert state(path) == before
    for f,p in zip(table.file, table.place):
        if p:
            assert (tmp_path/'sorted'/p).read_bytes() == Path(f).read_bytes() and not (tmp_path/'sorted'/p).is_symlink()

def test_interrupted_while_copying(photos, onnx, tmp_path, monkeypatch):
    "What is there stays, no part of a copy does, and the same call does the rest without classifying again"
    done, copy2 = [], shutil.copy2
    def stop(file, part):
        copy2(file, part)
        done.append(file)
        if len(done) == 7: raise KeyboardInterrupt
    monkeypatch.setattr(shutil, 'copy2', stop)
    args = onnx, photos, tmp_path/'sorted', True
    with pytest.raises(KeyboardInterrupt): predict_sorted(*args)
    jpgs = lambda: [o for o in (tmp_path/'sorted').rglob('*.jpg')]
    assert len(jpgs()) == 6 and not [*(tmp_path/'sorted').rglob('.*')]
    monkeypatch.setattr(sort, 'predict_to_file', None)
    table = predict_sorted(*args)
    assert len(jpgs()) == 20 == len({*table.place}) and len(done) == 21
    (photos/'men'/'new.jpg').write_bytes((photos/'men'/Path(table.file[0]).name).read_bytes())
    with pytest.raises(ValueError, match='not those'): predict_sorted(*args)

def test_same_names(tmp_path):
    "Cameras call every folder's first photo 1.jpg; no order and no other photo changes where a photo goes"
    files = []
    for o in 'abc':
        for name in ('1.jpg', '1.JPG', 'e\u0301.jpg', '\u00e9.jpg'):
            file = tmp_path/o/name
            file.parent.mkdir(exist_ok=True)
            file.write_text(str(file))
            files.append(str(file))
    df = pd.DataFrame(dict(file=files, label='men'))
    first = sort_photos(df, tmp_path/'x').set_index('file').place
    again = sort_photos(df[::-1], tmp_path/'y').set_index('file').place
    assert first.to_dict() == again.to_dict() and len({o.casefold() for o in first}) == len({*files})
    assert all((tmp_path/'x'/p).read_text() == f for f,p in first.items())

@pytest.mark.parametrize('label', ['a/b', '..', '.', 'a\\b', 'a:b', 'NA', ' men', '../../x', '\u7537', 'x'*80])
def test_labels_stay_in_the_folder(tmp_path, label):
    (tmp_path/'p').mkdir()
    (tmp_path/'p'/'a.jpg').write_text('a')
    (tmp_path/'answers.csv').write_text(f'file,label\n{tmp_path}/p/a.jpg,{label}\n')
    table = sort_photos(tmp_path/'answers.csv', tmp_path/'s')
    [place] = table.place
    assert place.count('/') == 1 and (tmp_path/'s'/place).resolve() == tmp_path/'p'/'a.jpg'
    assert sorted(o.name for o in tmp_path.iterdir()) == ['answers.csv', 'p', 's']

def test_nothing_is_overwritten(photos, onnx, tmp_path):
    folder = tmp_path/'sorted'
    table = predict_sorted(onnx, photos, folder)
    mine = folder/table.place[3]
    mine.unlink()
    mine.write_text('my own')
    with pytest.raises(FileExistsError, match='is not'): predict_sorted(onnx, photos, folder)
    assert mine.read_text() == 'my own'
    other = tmp_path/'other'
    other.mkdir()
    (other/'mine.txt').write_text('mine')
    for copy in (False, True):
        with pytest.raises(FileExistsError, match='not empty'): predict_sorted(onnx, photos, other, copy)
    assert [o.name for o in other.iterdir()] == ['mine.txt']

@pytest.mark.parametrize('where', ['.', 'men', 'men/sorted', 'sorted', '..'])
def test_not_among_the_photos(photos, onnx, where):
    before = state(photos)
    with pytest.raises(ValueError, match='one in the other'): predict_sorted(onnx, photos, photos/where)
    assert state(photos) == before

def test_no_links(photos, untrained, tmp_path, monkeypatch):
    "It is known before the photos are classified, and copies are the way out"
    def refuse(*args): raise OSError(1, 'Operation not permitted')
    monkeypatch.setattr(os, 'symlink', refuse)
    args = 'predict', untrained.with_suffix('.onnx'), photos, '--sort-into', tmp_path/'sorted'
    assert '--copy' in run(*args, code=1).stderr
    assert not [*(tmp_path/'sorted').iterdir()]
    assert 'Copies of the photos' in run(*args, '--copy').stdout

def test_at_the_shell(photos, untrained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (photos/'men'/'cut.jpg').write_bytes(b'\xff\xd8\xff')
    args = 'predict', untrained.with_suffix('.onnx'), 'photos', '--sort-into', 'sorted'
    for _ in range(2): data = json.loads(run(*args, '--abstain', 1, '--json').stdout)
    assert data == dict(output='sorted/manifest.csv', photos=21, labels=dict(unsure=20), problems=1)
    assert ({o.name: len([*o.iterdir()]) for o in (tmp_path/'sorted').iterdir() if o.is_dir()}
            == dict(unsure=20, problem=1))
    assert 'another call' in run(*args, code=1).stderr
    for more in (['-o', 'a.csv'], ['--overwrite']): assert 'leave out' in run(*args, *more, code=2).stderr
    assert '--copy goes with --sort-into' in run(*args[:3], '--copy', code=2).stderr
    assert ('none of these photos has an answer'
            in run('predict', args[1], 'nowhere.jpg', '--sort-into', 'none', code=1).stderr)
