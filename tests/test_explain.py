"Where the network looked, and shortcuts"
import sys
from pathlib import Path
import numpy as np, pytest, torch
from fastai.vision.all import resnet18
from genderres.check import check_photos
from genderres.data import gender_dls
from genderres.photos import photos_from_folder
from genderres.explain import grad_cam, shortcuts
from genderres.interpret import GenderInterpretation
from genderres.learner import gender_learner
from genderres.networks import lite0
from PIL import Image

def test_the_extra_is_named(photos, monkeypatch):
    monkeypatch.setitem(sys.modules, 'captum.attr', None)
    learn = gender_learner(gender_dls(photos, size=32, bs=8, num_workers=0), resnet18, weights=None)
    items = learn.dls.valid.items
    with pytest.raises(ImportError, match=r"pip install 'genderres\[explain\]'"): grad_cam(learn, items, [0]*len(items))

def test_lite0_and_shapes(photos):
    "Another body, frozen, with a photo that is not square"
    pytest.importorskip('timm'); pytest.importorskip('captum')
    file = next((photos/'men').iterdir())
    Image.open(file).resize((90, 40)).save(file)
    learn = gender_learner(gender_dls(photos, size=64, bs=8, num_workers=0), lite0, weights=None)
    learn.model.requires_grad_(False)
    items = learn.dls.photos
    cams = grad_cam(learn, items, [0]*len(items))
    assert (cams.shape == (len(items), 2, 2) and (cams >= 0).all() and torch.isfinite(cams).all()
            and not cams.requires_grad)
    with learn.no_bar():
        interp = GenderInterpretation.from_learner(learn, dl=learn.dls.test_dl(items, with_labels=True))
    assert len([o for o in interp.plot_top_losses_cam(100).axes if o.images]) == 2*len(items)
    assert not learn.model.training

def test_several_networks_explain_nothing(photos):
    learn = gender_learner(gender_dls(photos, size=32, bs=8, num_workers=0), resnet18, weights=None)
    with learn.no_bar(): interp = GenderInterpretation.from_learner(learn)
    interp.learn = None   # as that of `cross_validate`
    with pytest.raises(ValueError, match='no learner.*cross_validate'): interp.plot_top_losses_cam()

def tiny_set(path, n, paint):
    rng = np.random.default_rng(0)
    for i in range(n):
        label = ('a', 'b', 'c')[i % 3]
        (path/label).mkdir(exist_ok=True)
        Image.fromarray(paint(rng.integers(60, 200, (48, 48, 3)).astype(np.uint8), label)).save(path/label/f'{i}.png')
    return photos_from_folder(path)

def background(x, label):
    x[:4] = dict(a=60, b=130, c=200)[label]
    return x

def test_three_classes_and_a_background(tmp_path):
    found = shortcuts(check_photos(tiny_set(tmp_path, 90, background)))
    assert (found.loc['background', 'raises hand'] and found.loc['background', 'low'] > .9
            and (found.chance == 1/3).all())
    assert not found.loc[['aspect ratio', 'pixels'], 'raises hand'].any()

def test_persons_stay_together(tmp_path):
    "Each person has a background of their own, which says nothing about another person's label"
    def paint(x, label):
        x[:16] = shades.pop()
        return x
    shades = np.random.default_rng(1).integers(0, 255, (20, 1, 3)).repeat(6, 0).tolist()
    photos = check_photos(tiny_set(tmp_path, 120, paint))
    photos = photos.sort_values('file', key=lambda o: [int(Path(f).stem) for f in o], ignore_index=True)
    photos['label'] = [('a', 'b')[i//6 % 2] for i in range(120)]
    alone, together = shortcuts(photos), shortcuts(photos.assign(group=[f'person {i//6}' for i in range(120)]))
    assert alone.loc['background', 'low'] > .8 and not together.loc['background', 'raises hand']

def test_too_few(tmp_path):
    photos = check_photos(tiny_set(tmp_path, 12, background))
    with pytest.raises(ValueError, match='folds=5'): shortcuts(photos)
    with pytest.raises(ValueError, match='two or more classes'): shortcuts(photos[:0])
