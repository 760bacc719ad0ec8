"""How many faces `find_faces` finds, at each threshold:

    python benchmarks/faces.py [--data FOLDER] [--every N]

1. In one photo in N of `wild` and of `congress`: the share with a face, and how many faces a photo has. In
   `congress` each photo shows one person.
2. One in three of the same photos of `congress`, upside down.
3. By size: portraits of `congress`, shrunk until the face is so many pixels high, side by side in pictures of
   640 pixels or less. `found` is then the share of faces that are found where they are, and `faces` counts
   all, for each that is there.

Writes benchmarks/results/faces.csv.
"""
import argparse
from pathlib import Path
import numpy as np, pandas as pd
from PIL import Image
from genderres.faces import find_faces
from genderres.photos import photos_from_source
from genderres.reader import read_photo

thresholds = np.arange(.2, .85, .05).round(2)

def rows(name, photos, best, scores):
    "A row for each threshold, from the best score of each photo or face, and the scores of all faces found"
    return [dict(set=name, photos=photos, threshold=o, found=(best >= o).mean(), faces=(scores >= o).sum()/len(best))
            for o in thresholds]

def in_photos(name, photos):
    "Rows for a set of photos; each photo's faces"
    found = [find_faces(o, .2) for o in photos]
    return rows(name, len(found), np.array([o.score.max() if len(o) else 0 for o in found]),
                pd.concat(found).score), found

def overlap(box, faces):
    "Intersection over union of a box with each face"
    w = np.minimum(box[2:], faces[:,2:]) - np.maximum(box[:2], faces[:,:2])
    both, area = w.clip(0).prod(1), lambda o: (o[...,2:] - o[...,:2]).prod(-1)
    return both/(area(box) + area(faces) - both)

def mosaic(portraits, height):
    "Portraits side by side, with faces of so many pixels, and the boxes"
    cell = round(2.2*height)
    n = 640//cell
    im, boxes = Image.new('RGB', (n*cell, n*cell), (128, 128, 128)), []
    for i,(photo,face) in enumerate(portraits[:n*n]):
        f, at = height/(face.y1 - face.y0), np.array([i % n, i//n])*cell
        small = photo.resize((round(photo.width*f), round(photo.height*f)), Image.Resampling.LANCZOS)
        im.paste(small.crop((0, 0, min(small.width, cell), min(small.height, cell))), tuple(at))
        boxes.append(face[['x0', 'y0', 'x1', 'y1']].to_numpy(float)*f + np.tile(at, 2))
    return im, boxes

def of_size(portraits, height):
    "Rows for faces of one size, in four mosaics"
    best, scores = [], []
    for i in range(4):
        im, boxes = mosaic(portraits[i*len(portraits)//4:], height)
        found = find_faces(im, .2)
        faces, score = found[['x0', 'y0', 'x1', 'y1']].to_numpy(), found.score.to_numpy()
        best += [score[overlap(o, faces) > .4].max(initial=0) for o in boxes]
        scores += [*score]
    return rows(f'faces of {height} px', len(best), np.array(best), np.array(scores))

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=Path, default=Path('../shared/data'))
    parser.add_argument('--every', type=int, default=1, help='take one photo in this many')
    args = parser.parse_args()
    read = lambda name: [read_photo(o) for o in
                         photos_from_source(args.data/name).query("problem == ''").file[::args.every]]
    portraits = read('congress')
    table, faces = in_photos('congress', portraits)
    table += in_photos('congress, upside down', [o.rotate(180) for o in portraits[::3]])[0]
    known = [(photo, o.iloc[0]) for photo,o in zip(portraits, faces) if (o.score > .6).sum() == 1]
    known = [known[i] for i in np.random.default_rng(0).permutation(len(known))]
    for height in (8, 10, 12, 16, 20, 24, 32, 48): table += of_size(known, height)
    table += in_photos('wild', read('wild'))[0]
    table = pd.DataFrame(table)
    table.to_csv(Path(__file__).parent/'results/faces.csv', index=False, float_format='%.4g')
    print(table[table.threshold == .4])
