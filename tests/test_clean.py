"Decisions about suspects: none is lost, whatever happens"
import os, shutil, signal, sys, warnings
from pathlib import Path
import pandas as pd, pytest
from genderres.check import check_images, match_decisions
from genderres.clean import Cleaner, FileChanged, review_widget, suspects
from genderres.photos import photos_from_df

def found(n, folder='.'):
    "`n` suspects without files"
    return pd.DataFrame(dict(file=[str(Path(folder)/f'{i:03}.jpg') for i in range(n)], label=['men', 'women']*(n//2),
                             suggestion=['women', 'men']*(n//2), probability=.9, id=[f'{i:016x}' for i in range(n)]))

forks = pytest.mark.skipif(not hasattr(os, 'fork'), reason='this system cannot fork')

def child(work):
    "Run `work` in another process; its id"
    if pid := os.fork(): return pid
    try: work()
    finally: os._exit(0)

@forks
def test_a_killed_process_loses_nothing(tmp_path):
    "Each decision that `decide` returned from is there, and the file is whole"
    read, write = os.pipe()
    def work():
        cleaner = Cleaner(tmp_path/'decisions.csv', found(200))
        for i in range(200):
            cleaner.decide(i, 'exclude')
            os.write(write, b'.')
    pid = child(work)
    done = 0
    while done < 60: done += len(os.read(read, 200))
    os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0); os.close(write)
    done += len(os.read(read, 200))
    said = Cleaner(tmp_path/'decisions.csv', found(200)).decisions
    assert set(said[:done]) == {'exclude'} and sum(map(bool, said)) in (done, done + 1)

@forks
def test_two_writers(tmp_path):
    "Each sees that the other wrote, and no decision of either is lost"
    def work(rows):
        cleaner = Cleaner(tmp_path/'decisions.csv', found(60))
        for i in rows:
            while True:
                try: cleaner.decide(i, 'keep'); break
                except FileChanged: cleaner.reload()
    pids = [child(lambda: work(range(start, 60, 2))) for start in (0, 1)]
    for o in pids: os.waitpid(o, 0)
    assert Cleaner(tmp_path/'decisions.csv', found(60)).decisions == ['keep']*60

@pytest.mark.parametrize('sep', [',', ';'])
def test_a_file_is_continued(tmp_path, sep):
    "Rows about other photos and other columns stay, also when a decision is undone; a row twice is changed twice"
    rows = [['id', 'file', 'decision', 'who'], ['', 'elsewhere.jpg', 'exclude', 'Ann'],
            [f'{1:016x}', '', 'keep', 'Ben'], [f'{1:016x}', '', 'keep', 'Eve']]
    (tmp_path/'decisions.csv').write_text('\n'.join(map(sep.join, rows)), encoding='utf-8-sig')
    cleaner = Cleaner(tmp_path/'decisions.csv', found(4))
    assert cleaner.decisions == ['', 'keep', '', '']
    cleaner.decide([1, 2], 'exclude')
    now = pd.read_csv(tmp_path/'decisions.csv', dtype=object)
    assert (now.who[:3].tolist() == ['Ann', 'Ben', 'Eve'] and now.decision.tolist() == ['exclude']*4
            and now.file[0] == 'elsewhere.jpg')
    photos = photos_from_df(found(4, tmp_path)).assign(id=found(4).id, usable=True)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')   # elsewhere.jpg is not here
        assert match_decisions(photos, tmp_path/'decisions.csv').tolist() == ['', 'exclude', 'exclude', '']
    assert cleaner.undo() == [1, 2] and cleaner.undo() == []
    assert pd.read_csv(tmp_path/'decisions.csv', dtype=object).decision.tolist() == ['exclude', 'keep', 'keep']
    (tmp_path/'other.csv').write_text('file,label\na.jpg,men\n')
    with pytest.raises(ValueError, match='other.csv needs a column decision'): Cleaner(tmp_path/'other.csv', found(4))

def test_what_cannot_be_written_is_not_decided(tmp_path, monkeypatch):
    cleaner = Cleaner(tmp_path/'decisions.csv', found(4))
    cleaner.decide(0, 'keep')
    def full(*args): raise OSError(28, 'No space left on device')
    with monkeypatch.context() as m:
        m.setattr('os.fsync', full)
        with pytest.raises(OSError, match='make room'): cleaner.decide(1, 'keep')
        with pytest.raises(OSError, match='make room'): cleaner.undo()
    assert cleaner.decisions == Cleaner(tmp_path/'decisions.csv', found(4)).decisions == ['keep', '', '', '']
    assert [o.name for o in tmp_path.iterdir()] == ['decisions.csv']
    assert cleaner.undo() == [0]

def test_an_interrupt_after_the_file_was_written(tmp_path, monkeypatch):
    "What it says is not written over"
    cleaner, save = Cleaner(tmp_path/'decisions.csv', found(4)), Cleaner._save
    def interrupted(self, rows):
        save(self, rows)
        raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(Cleaner, '_save', interrupted)
        with pytest.raises(KeyboardInterrupt): cleaner.decide(0, 'keep')
    with pytest.raises(FileChanged): cleaner.decide(1, 'keep')
    cleaner.reload()
    cleaner.decide(1, 'exclude')
    assert Cleaner(tmp_path/'decisions.csv', found(4)).decisions == ['keep', 'exclude', '', '']

def test_another_folder_becomes_the_current_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cleaner = Cleaner('decisions.csv', found(2))
    cleaner.decide(0, 'keep')
    (tmp_path/'elsewhere').mkdir()
    monkeypatch.chdir(tmp_path/'elsewhere')
    cleaner.decide(1, 'keep')
    assert len(pd.read_csv(tmp_path/'decisions.csv')) == 2 and not [*(tmp_path/'elsewhere').iterdir()]

def test_a_link_stays_a_link(tmp_path):
    (tmp_path/'shared').mkdir()
    try: (tmp_path/'decisions.csv').symlink_to(tmp_path/'shared'/'real.csv')
    except OSError: pytest.skip('this system makes no links')
    cleaner = Cleaner(tmp_path/'decisions.csv', found(2, tmp_path))
    for i in range(2): cleaner.decide(i, 'keep')
    assert (tmp_path/'decisions.csv').is_symlink() and len(pd.read_csv(tmp_path/'shared'/'real.csv')) == 2
    assert Cleaner(tmp_path/'decisions.csv', found(2, tmp_path)).decisions == ['keep', 'keep']

def test_where_nothing_can_be_written_it_says_so_at_the_start(tmp_path):
    with pytest.raises(FileNotFoundError, match='make it first'): Cleaner(tmp_path/'nowhere'/'decisions.csv', found(2))
    (tmp_path/'folder.csv').mkdir()
    with pytest.raises(IsADirectoryError, match='is a folder'): Cleaner(tmp_path/'folder.csv', found(2))
    for o in (dict(found='photos'), dict(checked=found(2))):
        with pytest.raises(ValueError, match='give the table from'): suspects(**o)

@pytest.mark.skipif(os.name == 'nt', reason='Windows allows no such name')
def test_a_carriage_return_in_a_name(tmp_path):
    table = found(2, tmp_path).assign(file=[str(tmp_path/'a\rb.jpg'), str(tmp_path/'c\nd.jpg')], id='')
    cleaner = Cleaner(tmp_path/'decisions.csv', table)
    cleaner.decide([0, 1], 'keep')
    assert Cleaner(tmp_path/'decisions.csv', table).decisions == ['keep', 'keep']

def test_awkward_files(awkward, tmp_path):
    "Whatever a file is called, its decision is found again, and nothing is moved or changed"
    path, known = awkward
    (tmp_path/'photos').mkdir(); shutil.move(path, tmp_path/'photos'/'men')
    if 'huge.jpg' in os.listdir(tmp_path/'photos'/'men'): os.unlink(tmp_path/'photos'/'men'/'huge.jpg')
    (tmp_path/'photos'/'women').mkdir()
    shutil.copy(tmp_path/'photos'/'men'/'mode L.jpg', tmp_path/'photos'/'women'/'a.jpg')
    checked = check_images(tmp_path/'photos', verbose=False)
    before = sorted(os.listdir(tmp_path/'photos'/'men'))
    cleaner = Cleaner(tmp_path/'decisions.csv', checked=checked)
    want = ['exclude' if i % 2 else 'keep' for i in range(len(cleaner))]
    for word in ('exclude', 'keep'): cleaner.decide([i for i,o in enumerate(want) if o == word], word)
    assert len(cleaner) > 40 and Cleaner(tmp_path/'decisions.csv', checked=checked).decisions == want
    with warnings.catch_warnings():
        warnings.simplefilter('error')   # no decision about a photo that is not here
        what = match_decisions(checked, tmp_path/'decisions.csv')
    said = dict(zip(map(os.path.abspath, checked.file), what))
    usable = set(map(os.path.abspath, checked.file[checked.usable]))
    assert all((said[f] == 'exclude') == (w == 'exclude') for f,w in zip(cleaner.table.file, want) if f in usable)
    assert sorted(os.listdir(tmp_path/'photos'/'men')) == before

def test_equal_files_are_decided_apart(photos, tmp_path):
    "Unless the file says that a content is to be left out, wherever it lies"
    for c in ('men', 'women'): shutil.copy(next((photos/'men').iterdir()), photos/c/'again.jpg')
    checked = check_images(photos, verbose=False)
    cleaner = Cleaner(tmp_path/'a.csv', checked=checked)
    one = [Path(o).parts[-2:] for o in cleaner.table.file].index(('women', 'again.jpg'))
    cleaner.decide(one, 'exclude')
    assert match_decisions(checked, tmp_path/'a.csv').eq('exclude').sum() == 1
    (tmp_path/'b.csv').write_text(f'id,decision\n{cleaner.table.id[one]},exclude\n')
    assert ([*Cleaner(tmp_path/'b.csv', checked=checked).decisions].count('exclude')
            == cleaner.table.id.eq(cleaner.table.id[one]).sum() > 1)

def test_order():
    checked = pd.DataFrame(dict(file=['000.jpg', 'b.jpg', 'c.jpg', 'd.jpg'], label='men',
                                odd=['near duplicate', 'blank', 'damaged', 'tiny'], detail='x', id=''))
    table = suspects(found(2), checked)
    assert [Path(o).name for o in table.file] == ['c.jpg', '000.jpg', '001.jpg', 'b.jpg']
    assert table.doubt.between(0, 1).all() and table.doubt.is_monotonic_decreasing

@pytest.fixture
def widget(tmp_path):
    pytest.importorskip('ipywidgets')
    return review_widget(found(8), tmp_path/'decisions.csv', n=3)

def test_flags_survive_a_change_of_class(widget):
    "fastai's cleaner forgets them"
    widget.tiles[0].children[2].value = widget.tiles[2].children[2].value = True
    widget.buttons['exclude'].click()
    for o in ('women', 'men', ''): widget.label.value = o
    assert widget.cleaner.decisions[:3] == ['exclude', '', 'exclude']
    assert [o.children[1].value.startswith('<div') and '<b>exclude</b>' in o.children[1].value
            for o in widget.tiles] == [True, False, True]

def test_keys_and_pages(widget):
    for o in ('k', 'k1', 'k1x'): widget.keys.value = o
    assert widget.cleaner.decisions[:3] == ['keep', 'men', 'exclude'] and widget.page == 1
    widget.keys.value = 'k1'       # deleted letters do nothing
    widget.keys.value = 'k1kkkk'   # the last is about a page that nobody has seen
    assert widget.cleaner.decisions.count('keep') == 4 and widget.page == 2
    widget.keys.value = 'k1kkkku'
    assert widget.cleaner.decisions.count('keep') == 3 and widget.page == 1
    widget.act('back')
    widget.act('keep')
    assert 'Nothing on this page is open' in widget.message.value and widget.cleaner.decisions.count('keep') == 3

@pytest.mark.skipif(sys.platform in ('win32', 'darwin'), reason='names are Unicode there')
def test_the_widget_shows_names_that_are_not_unicode(tmp_path):
    pytest.importorskip('ipywidgets')
    names = pd.Series([os.fsdecode(b'n\xff.jpg'), 'b.jpg'], dtype=object)
    widget = review_widget(found(2).assign(file=names), tmp_path/'decisions.csv')
    widget.act('keep')
    assert widget.message.value.encode() and r'keep: n\udcff.jpg' in widget.message.value

def test_the_widget_says_what_goes_wrong(widget, tmp_path):
    other = Cleaner(tmp_path/'decisions.csv', found(8))
    other.decide(7, 'exclude')
    widget.act('keep')
    assert 'Somebody else decided' in widget.message.value and widget.cleaner.decisions == ['']*7 + ['exclude']
    widget.act('keep')
    assert widget.cleaner.decisions[0] == 'keep'
    shutil.rmtree(tmp_path)
    widget.act('keep')
    assert 'not kept' in widget.message.value or 'Somebody else' in widget.message.value

def test_a_file_that_was_broken_is_not_written_over(widget, tmp_path):
    widget.act('keep')
    broken = 'file;decision\n1;2;3;4\n'
    (tmp_path/'decisions.csv').write_text(broken)
    for _ in range(2):
        widget.act('exclude')
        assert 'not kept' in widget.message.value and (tmp_path/'decisions.csv').read_text() == broken

def test_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'ipywidgets', None)
    with pytest.raises(ImportError, match=r"the widget needs ipywidgets: `pip install 'genderres\[review\]'`"):
        review_widget(found(2), tmp_path/'a.csv')

def test_a_reason_is_said_once(photos):
    (photos/'men'/'letter.jpg').write_text('a letter')
    assert (suspects(checked=check_images(photos, verbose=False)).set_index('file').why[str(photos/'men'/'letter.jpg')]
            == 'not an image')
