"Bad input: a message that names the file or argument and the way out; nothing on disk changes"
import contextlib, hashlib, os, shutil, socket, sys, time
from pathlib import Path
import numpy as np, pandas as pd, pytest
from genderres.data import gender_dls
from genderres.datasets import kaggle_photos
from genderres.photos import photos_from_folder
from genderres.portraits import sample_portraits
from genderres.experiment import save_results
from genderres.learner import gender_learner
from genderres.reader import image_problem

def snapshot(path):
    return {o: (o.stat().st_mtime_ns, hashlib.sha1(o.read_bytes()).hexdigest() if o.is_file() else '')
            for o in sorted(path.rglob('*'))}

def fails(msg, source, error=ValueError, **kwargs):
    with pytest.raises(error, match=msg): gender_dls(source, num_workers=0, **kwargs)

def test_no_such_folder(tmp_path): fails('no such folder or CSV file: .*nowhere', tmp_path/'nowhere', FileNotFoundError)
def test_empty_folder(tmp_path): fails(f'{tmp_path.name} is empty', tmp_path)

def test_no_class_folders(photos): fails("has no class folders: expected", photos/'men')

def test_one_class(photos):
    shutil.rmtree(photos/'women')
    fails(r"two or more classes are needed, .*photos has \['men'\]", photos)

def test_empty_class_folder_is_named(photos):
    (photos/'children').mkdir()
    fails('empty class folder: .*children', photos)

def test_class_folder_without_a_readable_photo_is_named(photos):
    (photos/'children').mkdir()
    (photos/'children'/'a.jpg').write_text('no image')
    fails('no photo of children .*a.jpg: not an image', photos)

@pytest.mark.parametrize('label', ['', None, '  ', float('nan')])
def test_label_function_without_a_label(photos, label):
    fails('no label for 1 of 20 files, the first is .*00003', photos,
          label_func=lambda o: label if '00003' in o.name else o.parent.name)

def test_bad_files_are_named_counted_and_left(photos, four_lines):
    good = (photos/'men').ls()[0].read_bytes()
    bad = {'men/text.jpg': b'no image at all', 'women/cut.jpg': good[:len(good)*2//3], 'women/zero.jpg': b''}
    for k,v in bad.items(): (photos/k).write_bytes(v)
    before = snapshot(photos)
    with pytest.warns(UserWarning, match='3 of 23 files left out') as caught: dls, interp = four_lines(photos)
    msg = next(str(o.message) for o in caught if 'left out' in str(o.message))
    assert all(Path(o).name in msg for o in bad)
    out = dls.photos[dls.photos.split == 'left out']
    assert {Path(o).name for o in out.file} == {Path(o).name for o in bad}
    assert len(dls.train_ds) + len(dls.valid_ds) + len(out) == 23
    assert not set(interp.to_df().file) & set(out.file)
    assert snapshot(photos) == before

def test_every_truncation_is_found(photos):
    "A JPEG cut anywhere before its end marker never passes"
    file = (photos/'men').ls()[0]
    data = file.read_bytes()
    for n in [*range(1, len(data)-2, max(1, len(data)//40)), len(data)-3]:
        (photos/'cut.jpg').write_bytes(data[:n])
        assert image_problem(photos/'cut.jpg'), f'{n} of {len(data)} bytes passed'

def test_too_few_remain(photos):
    for o in (photos/'women').ls()[1:]: o.write_bytes(b'')
    fails('no training photo of women|no validation photo', photos, valid_pct=.9)

@pytest.mark.parametrize('valid_pct', [.05, .2, .5, .9])
def test_one_photo_a_class(photos, valid_pct):
    for c in ('men', 'women'):
        for o in (photos/c).ls()[1:]: o.unlink()
    fails('is not enough to train on and to validate on: add photos', photos, valid_pct=valid_pct)

def test_class_only_in_validation(photos):
    (photos/'train').mkdir(); (photos/'valid').mkdir()
    (photos/'men').rename(photos/'train'/'men')
    (photos/'train'/'other').mkdir()
    (photos/'train'/'men').ls()[0].rename(photos/'train'/'other'/'x.jpg')
    (photos/'women').rename(photos/'valid'/'women')
    fails('no training photo of women: all 10', photos)

def test_train_and_valid_folders_are_respected(photos, four_lines):
    for part,keep in (('train', slice(0,7)), ('val', slice(7,10))):
        for c in ('men','women'):
            (photos/'set'/part/c).mkdir(parents=True)
            for o in (photos/c).ls().sorted()[keep]: shutil.copy(o, photos/'set'/part/c)
    dls, interp = four_lines(photos/'set')
    assert {Path(o).parent.parent.name for o in interp.to_df().file} == {'val'}
    assert len(dls.train_ds) == 14

@pytest.mark.skipif(sys.platform == 'win32', reason='folder permissions work differently there')
def test_read_only_folder(photos, four_lines, tmp_path, monkeypatch):
    "Also as root, who may write anywhere: then at least nothing new appears"
    monkeypatch.chdir(tmp_path)
    for o in [photos, *photos.ls()]: o.chmod(0o555)
    before = snapshot(tmp_path)
    try:
        dls, interp = four_lines(photos)
        # so few photos need not give a rate
        with contextlib.suppress(ValueError): interp.learn.lr_find(num_it=12, show_plot=False)
        assert snapshot(tmp_path) == before
    finally:
        for o in [photos, *photos.ls()]: o.chmod(0o755)

def test_odd_names(photos, four_lines, tmp_path):
    odd = tmp_path/'mes photos – été 📷'
    photos.rename(odd)
    (odd/'men').rename(odd/'hommes âgés 👨')
    (odd/'women').ls()[0].rename(odd/'women'/'señora 1 (copie) 😀.jpg')
    dls, _ = four_lines(odd)
    assert dls.vocab == ['hommes âgés 👨', 'women']

@pytest.mark.skipif(sys.platform != 'linux', reason='only there may names be any bytes')
def test_names_that_are_not_unicode(photos, four_lines, tmp_path):
    for c in ('men', 'women'):
        for i,o in enumerate((photos/c).ls()): o.rename(os.fsdecode(os.fsencode(photos/c) + b'/\xff\xfe%d.jpg' % i))
    (photos/'men'/os.fsdecode(b'\xffbad.jpg')).write_bytes(b'no image')
    with pytest.warns(UserWarning, match=r'1 of 21 .*udcff'): dls, interp = four_lines(photos)
    save_results(interp.learn, interp, tmp_path/'out')
    assert len(pd.read_csv(tmp_path/'out'/'top_losses.csv', encoding_errors='surrogateescape',
                           dtype=dict(file=object))) == len(dls.valid_ds)
    assert len(gender_dls(photos, lambda o: o.parent.name, num_workers=0).photos) == 21

@pytest.mark.skipif(sys.platform == 'win32', reason='links need rights there')
def test_linked_class_folders_and_loops(photos, tmp_path):
    "Class folders that are links count like any other; a link back up is not walked again"
    (tmp_path/'linked').mkdir()
    for c in ('men', 'women'): (tmp_path/'linked'/c).symlink_to(photos/c)
    (photos/'men'/'loop').symlink_to(photos/'men')
    (photos/'men'/'nowhere.jpg').symlink_to(photos/'gone.jpg')
    with pytest.warns(UserWarning, match='nowhere.jpg .no such file'):
        dls = gender_dls(tmp_path/'linked', num_workers=0)
    assert dls.vocab == ['men', 'women'] and len(dls.photos) == 21

def test_hidden_files_are_no_class(photos):
    for o in ('.ipynb_checkpoints', '__MACOSX', 'men/.ipynb_checkpoints'):
        (photos/o).mkdir()
        shutil.copy((photos/'women').ls()[0], photos/o/'a.jpg')
    (photos/'.DS_Store').touch()
    (photos/'women'/'Thumbs.db').touch()
    dls = gender_dls(photos, num_workers=0)
    assert dls.vocab == ['men', 'women'] and len(dls.photos) == 20

def test_csv(photos, four_lines):
    found = photos_from_folder(photos)
    rows = pd.DataFrame(dict(file=[Path(o).relative_to(photos).as_posix() for o in found.file], label=found.label,
                             split=['train','valid']*10))
    rows.to_csv(photos/'photos.csv', index=False)
    dls, _ = four_lines(photos/'photos.csv', bs=4)
    assert len(dls.train_ds) == 10
    rows.assign(label=np.where(rows.index == 3, None, rows.label)).to_csv(photos/'photos.csv', index=False)
    fails('no label for 1 of 20', photos/'photos.csv')
    rows.assign(split='maybe').to_csv(photos/'photos.csv', index=False)
    fails("'maybe' in the split column", photos/'photos.csv')
    fails("no column 'sex'", rows, folder=photos, label_col='sex')
    fails('two labels for one file', pd.concat([rows, rows.assign(label='men')]), folder=photos)
    (photos/'notes.txt').write_text('x')
    fails('neither a folder nor a .csv', photos/'notes.txt')

def test_missing_files_of_a_table(photos):
    rows = photos_from_folder(photos)[['file','label']]
    rows.loc[0, 'file'] = str(photos/'gone.jpg')
    with pytest.warns(UserWarning, match='gone.jpg .no such file'): dls = gender_dls(rows, num_workers=0)
    assert len(dls.train_ds) + len(dls.valid_ds) == 19

@pytest.mark.parametrize('n,bs', [(10,64), (22,16), (21,20), (6,2)])
def test_small_sets_and_odd_batches(tmp_path, four_lines, n, bs):
    "A last batch of one, a set smaller than a batch: still trains on something"
    four_lines(sample_portraits(tmp_path/'few', n=n, size=32), bs=bs)

def test_bad_arguments(photos):
    fails('bs=1', photos, bs=1)
    fails('crop probability', photos, crop_p=1.5)

def test_no_network_for_weights(photos, monkeypatch):
    "At once, and with the remedies"
    def refuse(*args, **kwargs): raise socket.gaierror('no network')
    monkeypatch.setattr(socket, 'getaddrinfo', refuse)
    start = time.time()
    with pytest.raises(ConnectionError, match="weights='portrait'.*comes with this package.*"
                                              "weights=None to train from scratch"):
        gender_learner(gender_dls(photos, num_workers=0), weights='DEFAULT')
    assert time.time() - start < 30

def test_silent_network_for_weights(photos, monkeypatch):
    "A server that accepts and never answers does not hang the caller for minutes"
    from genderres import networks
    with socket.create_server(('127.0.0.1', 0)) as server:
        monkeypatch.setattr(socket, 'getaddrinfo', lambda *a, **k: [
            (socket.AF_INET, socket.SOCK_STREAM, 6, '', server.getsockname())])
        real = networks._connect_timeout
        monkeypatch.setattr(networks, '_connect_timeout', lambda seconds: real(seconds/20))
        start = time.time()
        with pytest.raises(ConnectionError, match='could not be downloaded'):
            gender_learner(gender_dls(photos, num_workers=0), weights='DEFAULT')
        assert time.time() - start < 30

def test_kaggle_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, 'kagglehub', None)
    with pytest.raises(ImportError, match=r"pip install 'genderres\[kaggle\]'"): kaggle_photos()
    class Refusing:
        @staticmethod
        def dataset_download(handle, output_dir): raise PermissionError('403')
    monkeypatch.setitem(sys.modules, 'kagglehub', Refusing)
    with pytest.raises(ConnectionError, match='PermissionError: 403.*'
                                              'download playlist/men-women-classification in a browser'):
        kaggle_photos()

def test_kaggle_finds_the_class_folders(monkeypatch, photos):
    class Nested:
        @staticmethod
        def dataset_download(handle, output_dir): shutil.copytree(photos, Path(output_dir)/'data'/'data')
    monkeypatch.setitem(sys.modules, 'kagglehub', Nested)
    assert len(gender_dls(kaggle_photos('a/b'), num_workers=0).photos) == 20
