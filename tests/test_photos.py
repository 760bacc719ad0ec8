"Folders and tables as people have them: read rightly, or refused with the file's name and the remedy"
import inspect, os, re, shutil
from pathlib import Path
import pandas as pd, pytest
from genderres import experiment
from genderres.check import check_images, check_summary
from genderres.data import gender_dls
from genderres.files import relative_names
from genderres.photos import own_results, photos_from_folder, photos_from_func, photos_from_source
from genderres.predict import expand_inputs

def listed(tmp_path, data, **kwargs):
    "What a table with this content lists, as (file, label, split)"
    file = tmp_path/'x.csv'
    file.write_bytes(data if isinstance(data, bytes) else data.encode())
    rows = photos_from_source(file, **kwargs)
    return [(Path(r.file).name, r.label, r.split) for r in rows.itertuples()]

plain = [('a.jpg', 'men', ''), ('b.jpg', 'women', '')]
parts = [('a.jpg', 'men', 'train'), ('b.jpg', 'women', 'test')]

@pytest.mark.parametrize('data', [
    'file,label\na.jpg,men\nb.jpg,women\n', 'label,file\nmen,a.jpg\nwomen,b.jpg\n',
    'Age,Gender,File Name\n3,men,a.jpg\n4,women,b.jpg\n', 'who,pic\nmen,a.jpg\nwomen,b.jpg\n',
    ',file,label\n0,a.jpg,men\n1,b.jpg,women\n', ',who,pic\n7,men,a.jpg\n9,women,b.jpg\n',
    ',0\na.jpg,men\nb.jpg,women\n', 'index,who,pic\n7,men,a.jpg\n9,women,b.jpg\n',
    'fname,labels\na.jpg,men\nb.jpg,women\n', 'id,label\na.jpg,men\nb.jpg,women\n'])
def test_columns_are_found_wherever_they_stand(tmp_path, data): assert listed(tmp_path, data) == plain

@pytest.mark.parametrize('data', [
    'split,file,label\ntrain,a.jpg,men\ntest,b.jpg,women\n', 'split,pic,who\ntrain,a.jpg,men\ntesting,b.jpg,women\n',
    'pic,who,set\na.jpg,men,TRAIN\nb.jpg,women,test\n', 'a.jpg,men,train\nb.jpg,women,test\n'])
def test_a_split_is_no_class_and_is_kept(tmp_path, data): assert listed(tmp_path, data) == parts

@pytest.mark.parametrize('data', ['a.jpg,men\nb.jpg,women\n', 'a.jpg;men\nb.jpg;women\n', 'men\ta.jpg\nwomen\tb.jpg\n',
                                  '0,a.jpg,men\n1,b.jpg,women\n'])
def test_no_header_loses_no_photo(tmp_path, data): assert listed(tmp_path, data) == plain

def test_missing_values_of_pandas():
    table = pd.DataFrame(dict(file=['a.jpg', 'b.jpg'], label=['men', 'women'], person=['Ann', pd.NA]))
    for o in (table, table.convert_dtypes()): assert photos_from_source(o).group.tolist() == ['Ann', '']
    with pytest.raises(ValueError, match='no label for 1 of 2'): photos_from_source(table.assign(label=['men', pd.NA]))

def test_no_header_and_names_without_an_ending(tmp_path):
    assert listed(tmp_path, 'p1,men\np2,women\np3,men\n') == [('p1', 'men', ''), ('p2', 'women', ''), ('p3', 'men', '')]

def test_no_header_and_a_class_with_the_name_of_a_column(tmp_path):
    assert listed(tmp_path, 'a.jpg,person\nb.jpg,group\n') == [('a.jpg', 'person', ''), ('b.jpg', 'group', '')]

@pytest.mark.parametrize('data', [
    'file;label\na.jpg;men\nb.jpg;women\n', 'file\tlabel\na.jpg\tmen\nb.jpg\twomen\n',
    'file|label\na.jpg|men\nb.jpg|women\n', b'\xef\xbb\xbffile;label\r\na.jpg;men\r\nb.jpg;women\r\n;\r\n',
    'file\tlabel\na.jpg\tmen\nb.jpg\twomen\n'.encode('utf-16'),
    '"file";"label"\r\n"a.jpg";"men"\r\n"b.jpg";"women"\r\n',
    'file,label\na.jpg,men\nb.jpg,women\n,\n', 'file,label\na.jpg,men\nb.jpg,women\n,,,\n',
    'file,label,,\na.jpg,men,,\n,,,\nb.jpg,women,,\n', '\n\nfile,label\na.jpg,men\n\nb.jpg,women\n',
    'file,label,gr\u00f6\u00dfe\r\na.jpg,men,1\r\nb.jpg,women,2\r\n'.encode('cp1252')])
def test_as_spreadsheets_write_it(tmp_path, data): assert listed(tmp_path, data) == plain

def test_separators_inside_a_name(tmp_path):
    assert listed(tmp_path, 'file;label\nSmith, John.jpg;men\n') == [('Smith, John.jpg', 'men', '')]
    assert listed(tmp_path, 'file,label\n"Smith, John.jpg",men\n') == [('Smith, John.jpg', 'men', '')]

@pytest.mark.parametrize('data,says', [
    ('', 'is empty: expected'), ('\n \n', 'is empty: expected'), (',,\n,,\n', 'separators only'),
    ('file,label\n', 'lists no photos'), ('file:label\na.jpg:men\n', 'the separator is one of'),
    ('file\na.jpg\n', 'no column with labels'), ('file,label\na.jpg,\n', 'no label for 1 of 1'),
    ('file,label\n,men\n', 'no file name in 1 of 1'), ('file,label\nSmith, John.jpg,men\n', 'quote file names'),
    ('file,label\n"a.jpg,men\n', 'check the quotes'),
    ('file,who,age\na.jpg,men,3\n', 'labels, who or age.*Name it label'),
    ('file,label,split\na.jpg,men,maybe\n', "'maybe' in the split"),
    ('file,label,file\na.jpg,men,b.jpg\n', "two columns 'file'"),
    (b'PK\x03\x04' + bytes(range(128, 256)), 'is a spreadsheet')])
def test_every_refusal_names_the_file(tmp_path, data, says):
    with pytest.raises(ValueError, match=f'x.csv.*{says}'): listed(tmp_path, data)

def test_given_columns_come_first(tmp_path):
    data = 'file,label,other,who\na.jpg,x,b.jpg,men\n'
    assert (listed(tmp_path, data, fn_col='other', label_col='who') == listed(tmp_path, data, fn_col=2, label_col=3)
            == [('b.jpg', 'men', '')])

def test_a_saved_index_is_the_same_table(photos):
    "From pandas, with and without its index, twice, and as a DataFrame"
    found = photos_from_folder(photos)[['label', 'file']]
    found.to_csv(photos/'x.csv')
    again = pd.read_csv(photos/'x.csv')
    again.to_csv(photos/'y.csv')
    for o in (photos/'x.csv', photos/'y.csv', again):
        assert photos_from_source(o, folder='.')[['label', 'file']].equals(found)

def tree(path, *files):
    for o in files:
        (path/o).parent.mkdir(parents=True, exist_ok=True)
        (path/o).touch()
    return path

def said(path):
    return [(Path(r.file).relative_to(path).as_posix(), r.label, r.split)
            for r in photos_from_folder(path).itertuples()]

@pytest.mark.parametrize('train,valid,test', [('train', 'dev', 'test'), ('Training', 'VAL', 'Testing'),
                                              ('TRAIN', 'validation', 'test')])
def test_parts_by_their_usual_names(tmp_path, train, valid, test):
    for inner in (False, True):
        path = tmp_path/str(inner)
        for i,part in enumerate((train, valid, test)):
            for c in ('men', 'women'): tree(path, f'{c}/{part}/{i}.jpg' if inner else f'{part}/{c}/{i}.jpg')
        found = photos_from_folder(path)
        assert {(Path(r.file).stem, r.label, r.split) for r in found.itertuples()} == {
            (str(i), c, s) for i,s in enumerate(('train', 'valid', 'test')) for c in ('men', 'women')}
        assert (found.problem == '').all()

def test_the_author_s_test_photos_are_not_trained_on(photos):
    for c in ('men', 'women'):
        files = sorted((photos/c).iterdir())
        for part,some in (('train', files[:5]), ('dev', files[5:8]), ('test', files[8:])):
            (photos/c/part).mkdir()
            for o in some: o.rename(photos/c/part/o.name)
    dls = gender_dls(photos, size=32, num_workers=0)
    assert dls.vocab == ['men', 'women']
    assert ([Path(r.file).parent.name for r in dls.photos.itertuples()]
            == [dict(valid='dev').get(o, o) for o in dls.photos.split])

def test_only_a_test_part_inside_the_classes(tmp_path):
    path = tree(tmp_path, 'men/a.jpg', 'men/test/b.jpg', 'women/a.jpg', 'women/test/b.jpg')
    assert [o[2] for o in said(path)] == ['', 'test', '', 'test']
    assert [o[2] for o in said(tree(tmp_path/'two', 'valid/men/a.jpg', 'test/men/a.jpg'))] == ['test', 'valid']

@pytest.mark.parametrize('files,says', [
    (['men/a.jpg', 'women/a.jpg', 'test/a.jpg'], 'rename test if it is no part'),
    (['train/men/a.jpg', 'val/men/a.jpg', 'dev/men/a.jpg'], 'mean the same part'),
    (['men/train/a.jpg', 'men/Training/a.jpg', 'women/train/a.jpg'], 'mean the same part'),
    (['men/train/a.jpg', 'women/a.jpg'], 'women has no such folder'),
    (['men/train/a.jpg', 'men/2019/a.jpg', 'women/train/a.jpg'], '2019 beside it is not'),
    (['men/train/a.jpg', 'men/b.jpg', 'women/train/a.jpg'], 'b.jpg beside it is not')])
def test_half_a_layout_is_refused(tmp_path, files, says):
    with pytest.raises(ValueError, match=f'{tmp_path.name}.*{says}'): photos_from_folder(tree(tmp_path, *files))

@pytest.mark.parametrize('files,give', [
    (['photos/men/a.jpg', 'photos/women/a.jpg', 'photos/labels.csv', 'readme.txt'], 'photos'),
    (['photos/train/men/a.jpg', 'photos/dev/men/a.jpg'], 'photos'), (['photos/train/men/a.jpg'], 'photos'),
    (['x/y/men/a.jpg', 'x/y/women/a.jpg'], 'x/y')])
def test_one_folder_too_many(tmp_path, files, give):
    with pytest.raises(ValueError, match=re.escape(f'give {tmp_path/give} instead')):
        check_images(tree(tmp_path, *files), verbose=False)

@pytest.mark.parametrize('files', [['men/a.jpg'], ['men/2019/a.jpg'],
                                   ['men/a.jpg', 'men/2019/a.jpg', 'men/2020/a.jpg'],
                                   ['men/train/a.jpg', 'men/test/a.jpg']])
def test_a_single_class_is_no_wrapper(tmp_path, files): assert {o[1] for o in said(tree(tmp_path, *files))} == {'men'}

def test_classes_that_differ_in_case_are_said(photos):
    (photos/'Men').mkdir()
    shutil.copy(next((photos/'men').iterdir()), photos/'Men'/'a.jpg')
    with pytest.warns(UserWarning, match='Men and men look like one'): check_images(photos, verbose=False)
    with pytest.raises(ValueError, match='Men and men look like one'): gender_dls(photos, size=32, num_workers=0)

def plots(folder):
    folder.mkdir(exist_ok=True)
    for o in ('loss.png', 'learning_rate.png', 'confusion_matrix.png', 'top_losses.png', 'epochs.csv', 'scores.csv',
              'top_losses.csv', 'split.csv'):
        (folder/o).touch()

def test_own_plots_are_no_class(photos):
    plots(photos/'mine')
    plots(photos/'men')   # as --overwrite once did
    table = check_images(photos, verbose=False)
    assert len(table) == 36 and table.usable.sum() == 20 and '16 result of a training' in check_summary(table)
    with pytest.warns(UserWarning, match='16 of 36 files left out'): dls = gender_dls(photos, size=32, num_workers=0)
    assert dls.vocab == ['men', 'women']
    by_parent = photos_from_func(photos, lambda o: o.parent.name)
    assert set(by_parent.label) == {'men', 'women', ''} and (by_parent.problem != '').sum() == 16
    assert expand_inputs(photos)[1] == 20

@pytest.mark.parametrize('lost', ['confusion_matrix.png', 'top_losses.png'])
def test_results_that_lost_a_plot_are_no_class(photos, lost):
    plots(photos/'mine')
    (photos/'mine'/lost).unlink()
    assert set(photos_from_folder(photos).query("problem == ''").label) == {'men', 'women'}

def test_all_plots_are_known():
    names = re.findall(r"(\w+)=(?:_\w+_figure|interp\.plot_\w+)\(", inspect.getsource(experiment.save_results))
    assert len(names) == 4
    files = [Path('mine')/f'{o}.png' for o in (*names, 'portraits')]
    assert own_results(files) == {*files}

def test_sorted_photos_are_no_class(photos):
    shutil.copytree(photos/'men', photos/'sorted'/'men')
    (photos/'sorted'/'sorting.json').write_text('{}')
    with pytest.warns(UserWarning, match='11 of 31 files left out'): dls = gender_dls(photos, size=32, num_workers=0)
    assert dls.vocab == ['men', 'women']
    assert set(photos_from_folder(photos/'sorted').label) == {'men', ''}   # unless somebody passes that folder

@pytest.mark.parametrize('beside', ['tests/men', 'development/women', 'men'])
def test_what_lies_beside_train_with_its_classes_is_a_part_too(tmp_path, beside):
    "Or else somebody's test photos would be left out, and the training photos split again"
    for o in ('train/men', 'train/women', beside):
        (tmp_path/o).mkdir(parents=True)
        (tmp_path/o/'1.png').write_bytes(b'')
    with pytest.raises(ValueError, match='is a part of the split, .* beside it is not'): photos_from_folder(tmp_path)

def test_other_folders_beside_train_are_left_out(tmp_path):
    for o in ('train/men', 'train/women', 'notes/2020'):
        (tmp_path/o).mkdir(parents=True)
        (tmp_path/o/'1.png').write_bytes(b'')
    assert sorted(photos_from_folder(tmp_path).problem) == ['', '', 'not in a class folder']

def test_parts_too_deep_are_not_merged(tmp_path):
    for o in ('men/2020/train', 'men/2020/test', 'women/2020/train', 'women/2020/test'):
        (tmp_path/o).mkdir(parents=True)
        (tmp_path/o/'1.png').write_bytes(b'')
    with pytest.raises(ValueError, match='lie too deep'): photos_from_folder(tmp_path)

def test_names_of_files_on_another_drive(monkeypatch, tmp_path):
    "As on Windows, where no relative path leads there"
    def relpath(*args): raise ValueError("path is on mount 'D:', start on mount 'C:'")
    monkeypatch.setattr(os.path, 'relpath', relpath)
    assert relative_names([tmp_path/'a.jpg'], 'split.csv') == [(tmp_path/'a.jpg').as_posix()]

def test_cells_that_hold_more_than_a_word():
    "As a Parquet file gives a column of boxes"
    import numpy as np
    from genderres.photos import as_words
    assert as_words([np.array([1, 2]), None, [1, 2]]) == ['[1 2]', '', '[1, 2]']
