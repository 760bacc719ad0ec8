"""What the check of photos finds, how fast, and what the split is worth:

    python benchmarks/check.py [--data FOLDER]

1. Speed and peak memory of `check_images` on all portraits of FOLDER, `congress` and `unlabelled`.
2. What it finds in `congress` and in `wild`.
3. Copies are planted: of each of 600 photos of `congress` and 400 of `wild`, one copy of a random kind. Which
   of them are found, by `near_pairs` and by the perceptual hash of the library imagehash (pHash and that of
   the mirror image, up to 10 of 64 bits apart), how many pairs of different people each takes for copies, and
   how many pairs a split at random and the grouped split tear apart.

Writes benchmarks/results/check.csv. Needs `pip install imagehash`.
"""
import argparse, io, resource, tempfile, time
from pathlib import Path
import imagehash, numpy as np, pandas as pd
from PIL import Image, ImageEnhance
from genderres.all import check_images, near_pairs, photos_from_source, split_photos, thumbnail
from genderres.reader import read_photo

def jpeg(im, quality):
    f = io.BytesIO(); im.save(f, 'jpeg', quality=quality)
    return Image.open(f).convert('RGB')

def cut(im, keep, rng):
    (w, h), (a, b) = im.size, rng.uniform(0, 1-keep, 2)
    return im.crop((round(a*w), round(b*h), round((a+keep)*w), round((b+keep)*h)))

doings = {'resized': lambda o,r: o.resize((o.width//2, o.height//2)),
          'recompressed': lambda o,r: jpeg(o, 30),
          'mirrored': lambda o,r: o.transpose(Image.FLIP_LEFT_RIGHT),
          'brightness': lambda o,r: ImageEnhance.Brightness(o).enhance(r.choice([.6, .75, 1.25, 1.4])),
          'cut by 5 %': lambda o,r: cut(o, .95, r),
          'cut by 10 %': lambda o,r: cut(o, .9, r),
          'cut by 20 %': lambda o,r: cut(o, .8, r)}

def phash_pairs(photos, most=10):
    "Pairs (one, two) of positions"
    bits = lambda im: imagehash.phash(im).hash.ravel()
    a, b = (np.array([bits(f(o)) for o in photos], np.int8)*2-1
            for f in (lambda o: o, lambda o: o.transpose(Image.FLIP_LEFT_RIGHT)))
    near = np.minimum(64 - a.astype(int)@a.T, 64 - a.astype(int)@b.T)//2 <= most
    return np.argwhere(np.triu(near | near.T, 1))

def planted(data, seed=0):
    "Rows of what is found of planted copies, and torn by the splits"
    rng, rows = np.random.default_rng(seed), []
    with tempfile.TemporaryDirectory() as tmp:
        for name,n in (('congress', 600), ('wild', 400)):
            files = photos_from_source(data/name).query("problem == '' and label != ''")
            for i,r in enumerate(files.iloc[rng.permutation(len(files))[:n]].itertuples()):
                kind, folder = (list(doings)[i % len(doings)],
                                Path(tmp)/dict(man='men', woman='women').get(r.label, r.label))
                folder.mkdir(exist_ok=True)
                im = read_photo(r.file)
                im.save(folder/f'{name}{i:04}.png')
                doings[kind](im, rng).save(folder/f'{name}{i:04}-{kind}.jpg', quality=85)
        table = check_images(tmp, verbose=False)
        who = table.file.map(lambda o: Path(o).stem.split('-')[0])
        kind = table.file.map(lambda o: (Path(o).stem + '-').split('-')[1])
        photos = [read_photo(o) for o in table.file]
        mine = near_pairs(np.stack([thumbnail(o) for o in photos]))[['one', 'two']].to_numpy()
        for method,pairs in (('near_pairs', mine), ('imagehash.phash', phash_pairs(photos))):
            own = who.to_numpy()[pairs[:,0]] == who.to_numpy()[pairs[:,1]]
            got = {who[i] for i,_ in pairs[own]}
            for k in doings:
                rows.append((f'{method}: found of {k}', np.mean([o in got for o in who[kind == k]]), (kind == k).sum()))
            rows.append((f'{method}: pairs of different pictures', (~own).sum(), len(pairs)))
        for split in ('random', 'grouped'):
            sides = split_photos(table, split=split).split.groupby(who.to_numpy()).nunique()
            rows.append((f'{split} split: share of pairs torn apart', (sides > 1).mean(), len(sides)))
    return rows

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=Path, default=Path('../shared/data'))
    args = parser.parse_args()
    files = [str(o) for name in ('congress', 'unlabelled') for o in sorted((args.data/name).rglob('*.jpg'))]
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    table = check_images(pd.DataFrame(dict(file=files, label='unknown')))
    seconds = time.perf_counter() - start
    rows = [('seconds for the check', seconds, len(files)), ('files a second', len(files)/seconds, len(files)),
            ('peak memory of the check, MB',
             (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)/1024, len(files))]
    for name in ('congress', 'wild'):
        print()
        table = check_images(args.data/name)
        rows += [(f'{name}: {k}', v, len(table))
                 for k,v in table.odd[table.odd != ''].str.split(', ').explode().value_counts().items()]
    portraits = np.stack([thumbnail(read_photo(o)) for o in sorted((args.data/'congress').rglob('*.jpg'))])
    rows.append(('congress: similarity of the most similar two',
                 near_pairs(portraits, least=0).similarity.max(), len(portraits)))
    rows = pd.DataFrame(rows + planted(args.data), columns=['what', 'value', 'of'])
    rows.to_csv(Path(__file__).parent/'results/check.csv', index=False, float_format='%.4g')
    print(rows.to_string())
