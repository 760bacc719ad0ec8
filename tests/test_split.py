"A saved split, as it comes back from a spreadsheet"
import pandas as pd, pytest
from genderres.check import check_images
from genderres.split import save_split, split_photos

def test_edited_in_a_spreadsheet(photos, tmp_path):
    checked = check_images(photos, verbose=False)
    split = split_photos(checked, seed=3)
    save_split(split, tmp_path/'split.csv')
    saved = pd.read_csv(tmp_path/'split.csv', dtype=object)
    saved.to_csv(tmp_path/'edited.csv', sep=';', index=False, encoding='utf-8-sig', lineterminator='\r\n')
    with open(tmp_path/'edited.csv', 'a') as f: f.write(';;;;\r\n')
    assert split_photos(checked, split=tmp_path/'edited.csv').split.tolist() == split.split.tolist()
    saved.assign(split='dev').to_csv(tmp_path/'edited.csv', sep='\t')
    assert set(split_photos(checked, split=tmp_path/'edited.csv').split) == {'valid'}

def test_changed_ids_move_no_photo(photos, tmp_path):
    "A spreadsheet reads some ids as numbers; the photo would silently get another part"
    checked = check_images(photos, verbose=False)
    save_split(split_photos(checked), tmp_path/'split.csv')
    saved = pd.read_csv(tmp_path/'split.csv', dtype=object)
    for column,value,says in (('id', '1.23E+15', r"edited.csv: 1.23E\+15 is not the id"),
                              ('split', 'mine', "edited.csv: 'mine' in the split column")):
        odd = saved.copy()
        odd.loc[3, column] = value
        odd.to_csv(tmp_path/'edited.csv', index=False)
        with pytest.raises(ValueError, match=says): split_photos(checked, split=tmp_path/'edited.csv')
