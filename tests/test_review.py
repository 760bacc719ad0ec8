"Labels that are likely wrong"
import sys
import numpy as np, pytest
from genderres.data import gender_dls
from genderres.review import review_labels, show_review
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
    assert (found.label != found.suggestion).all() and (found.decision == '').all() and found.probability.between(.5, 1).all()
    show_review(found)
    with pytest.raises(ValueError, match='no suspects'): show_review(found[:0])

def test_the_extra_is_named(photos, monkeypatch):
    monkeypatch.setitem(sys.modules, 'cleanlab.filter', None)
    with pytest.raises(ImportError, match=r"pip install 'genderres\[review\]'"): review_labels(gender_dls(photos, size=32, num_workers=0))
