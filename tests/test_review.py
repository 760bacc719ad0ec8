"Labels that are likely wrong"
import sys, warnings
from pathlib import Path
import numpy as np, pandas as pd, pytest
from genderres.data import gender_dls
from genderres.review import review_labels, save_review, show_review
from PIL import Image

def test_turned_labels_are_found(tmp_path):
    "Bright photos and dark ones: nothing but the label can be wrong"
    rng = np.random.default_rng(0)
    for i in range(120):
        c = ('dark', 'light')[i % 2]
        folder = tmp_path/(c if i >= 6 else ('dark', 'light')[1 - i % 2])
        folder.mkdir(exist_ok=True)
        x = (60 if c == 'dark' else 190) + rng.normal(0, 30, (40, 40, 3))
        Image.fromarray(np.clip(x, 0, 255).astype(np.uint8)).save(folder/f'{i:03}.png')
    dls = gender_dls(tmp_path, size=32, bs=16, num_workers=0)
    found = review_labels(dls)
    assert {o[-7:-4] for o in found.file} == {f'{i:03}' for i in range(6)}
    assert ((found.label != found.suggestion).all() and (found.decision == '').all()
            and found.probability.between(.5, 1).all())
    show_review(found)
    with pytest.raises(ValueError, match='no suspects'): show_review(found[:0])

def test_the_extra_is_named(photos, monkeypatch):
    monkeypatch.setitem(sys.modules, 'cleanlab.filter', None)
    with pytest.raises(ImportError, match=r"pip install 'genderres\[review\]'"):
        review_labels(gender_dls(photos, size=32, num_workers=0))

def decided(photos, decisions):
    "The labels, and the files that are left out"
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        table = gender_dls(photos, size=32, num_workers=0, decisions=decisions).photos
    return table.label.tolist(), [Path(o).name for o in table.file[table.problem == 'excluded']]

def test_decisions_from_a_spreadsheet(photos, tmp_path):
    table = gender_dls(photos, size=32, num_workers=0).photos
    found = table.head(4)[['file', 'label', 'id']].assign(
        suggestion='women', probability=.9, split='train', decision=['exclude', 'women', 'keep', ''])
    save_review(found, tmp_path/'review.csv')
    want = decided(photos, tmp_path/'review.csv')
    assert want[1] == [Path(table.file[0]).name] and want[0][1] == 'women'
    saved = pd.read_csv(tmp_path/'review.csv', dtype=object)
    for name,kwargs in (('excel', dict(sep=';', index=False, encoding='utf-8-sig', lineterminator='\r\n')),
                        ('tab', dict(sep='\t')), ('index', {})):
        saved.to_csv(tmp_path/f'{name}.csv', **kwargs)
        with open(tmp_path/f'{name}.csv', 'a') as f: f.write(kwargs.get('sep', ',')*7 + '\r\n')
        assert decided(photos, tmp_path/f'{name}.csv') == want
    for one in (saved[['decision', 'file']], saved[['decision', 'id']],
                saved.rename(columns=dict(file='Path', decision='Decision')), saved.assign(id='1.23E+15')):
        one.to_csv(tmp_path/'some.csv', index=False)
        assert decided(photos, tmp_path/'some.csv') == want

@pytest.mark.parametrize('text,says', [('', 'is empty'), ('a.jpg,exclude\n', 'needs a column decision'),
                                       ('id,decision\n1.23E+15,exclude\n', 'write the file name beside it'),
                                       ('file,decision\n,exclude\n', 'neither file nor id'),
                                       ('file:decision\na.jpg:keep\n', 'needs a column decision')])
def test_decisions_that_are_refused_name_the_file(photos, tmp_path, text, says):
    (tmp_path/'review.csv').write_text(text)
    with pytest.raises(ValueError, match=f'review.csv.*{says}'):
        gender_dls(photos, size=32, num_workers=0, decisions=tmp_path/'review.csv')
