"""How well people are counted: python benchmarks/count.py [--data FOLDER]

FOLDER holds `fairface/` (unzipped: train/, test/, labels.csv), `congress/` and `wild/`. FairFace's test crops
give the recalls for the adjusted count, and nothing else. People are then drawn from faces that the ready
classifier was not trained on: FairFace's training crops that `pretrain/train.py` held out (they gave its
temperature), the persons of Congress that it held out, and `wild/valid` and `wild/test`. The default lean of
`estimate_counts` was chosen among .1, .3 and .4 on these sets but `wild/test`.

1. Estimators, count_estimators.csv: 100 samples of 100 people of each set, with any share of women. `error`
   is the mean absolute error of the number of women, `covered` the share of the intervals that contain it,
   `width` their mean width. The first row has, under `error`, the standard deviation of the lean between
   FairFace's groups by age and by race, beyond chance.
2. Pictures, count.csv: faces side by side, up to 20 in a picture and 200 in a count, in cells of so many
   pixels. `found` people of `people`, `extra` faces where nobody is, `right` answers for those found (an
   unsure one is not), and the number of women: true, added up (the unsure ones too), estimated, with its
   interval.
"""
import argparse, sys
from pathlib import Path
import numpy as np, pandas as pd
from PIL import Image
from scipy.optimize import brentq
from scipy.special import expit, logit
from genderres.count import count_people, estimate_counts, judge_faces
from genderres.faces import find_faces
from genderres.reader import read_photo
from genderres.ready import ReadyClassifier
sys.path.insert(0, str(Path(__file__).parents[1]/'pretrain'))
from train import held_out

clf, side = ReadyClassifier(), 100

def whole(photo):
    "A box around everything"
    return pd.DataFrame([dict(x0=0, y0=0, x1=photo.width, y1=photo.height)])

def judged(files, cut):
    "The probability of women for each photo; NaN without a face"
    photos = map(read_photo, files)
    probs = [judge_faces(clf, o, find_faces(o)[:1] if cut else whole(o)) for o in photos]
    return np.array([o[0,1] if len(o) else np.nan for o in probs])

def sets(root):
    "Name → table of `file`, `label` and, but for FairFace's test crops, nothing that served to choose"
    fair = pd.read_csv(root/'fairface/labels.csv')
    fair = fair.assign(file=[root/'fairface'/o for o in fair.file])
    held = fair[(fair.split == 'train') & fair.file.map(lambda o: held_out(o.relative_to(root/'fairface').as_posix()))]
    young = held.age.isin(['0-2', '3-9', '10-19'])
    congress = pd.read_csv(root/'congress/labels.csv')
    congress = congress[congress.person.map(lambda o: held_out(o, 5))]
    wild = lambda part: pd.DataFrame([(o, dict(man='men', woman='women')[o.parent.name])
                                      for o in sorted((root/'wild'/part).rglob('*.jpg'))], columns=['file', 'label'])
    return {'FairFace test': fair[fair.split == 'test'], 'FairFace': held, 'FairFace, 20 and over': held[~young],
            'FairFace, under 20': held[young],
            'Congress': congress.assign(file=[root/'congress'/o for o in congress.file]),
            'Wild, valid': wild('valid'), 'Wild, test': wild('test')}

## Estimators

def lean_between(t):
    "Standard deviation of the lean between groups beyond chance (DerSimonian and Laird)"
    rows = []
    for o in (*(g for _,g in t.groupby('age')), *(g for _,g in t.groupby('race'))):
        x, n = logit(o.p.clip(1e-6, 1 - 1e-6)), (o.label == 'women').sum()
        rows.append((brentq(lambda b: expit(x + b).sum() - n, -9, 9), (o.p*(1 - o.p)).sum()))
    lean, w = np.array(rows).T
    q = (w*(lean - np.average(lean, weights=w))**2).sum()
    return max(0, (q - len(lean) + 1)/(w.sum() - (w**2).sum()/w.sum()))**.5

def adjusted(p, recalls):
    "The number of women after Forman"
    share = ((p > .5).mean() - (1 - recalls['men']))/(recalls['men'] + recalls['women'] - 1)
    return share.clip(0, 1)*len(p)

def em(p, share=.5):
    "The number of women after Saerens, Latinne and Decaestecker"
    for _ in range(300): share = expit(logit(p.clip(1e-6, 1 - 1e-6)) + logit(np.clip(share, 1e-9, 1 - 1e-9))).mean()
    return share*len(p)

def bayes(lean):
    "`estimate_counts` with this lean"
    def f(p):
        o = estimate_counts(np.stack([1 - p, p], 1), lean=lean, draws=300).loc[1]
        return o.estimate, o.low, o.high
    return f

def estimators(tables):
    "A row for each set and method"
    test = tables.pop('FairFace test')
    recalls = {o: ((t.p > .5) == (o == 'women')).mean() for o,t in test.groupby('label')}
    methods = {'answers': lambda p: (p > .5).sum(), 'adjusted count': lambda p: adjusted(p, recalls), 'EM': em,
               'Bayes, no lean': bayes(0), 'Bayes, lean .3': bayes(.3)}
    rows, rng = [dict(set='FairFace', method='lean', error=lean_between(tables['FairFace']))], np.random.default_rng(0)
    for name,t in tables.items():
        found = []
        for share in rng.random(100):
            n = rng.binomial(side, share)
            both = dict(women=n, men=side - n).items()
            p = np.concatenate([rng.choice(t.p[(t.label == o) & t.p.notna()], k) for o,k in both])
            found.append([np.atleast_1d(f(p)) - n for f in methods.values()])
        for method,off in zip(methods, zip(*found)):
            off = np.stack(off)
            row = dict(set=name, method=method, error=abs(off[:,0]).mean())
            if off.shape[1] > 1:
                row.update(covered=((off[:,1] <= 0) & (off[:,2] >= 0)).mean(), width=(off[:,2] - off[:,1]).mean())
            rows.append(row)
    return pd.DataFrame(rows)

## Pictures

def picture(photos, cell, rng):
    "Photos in random cells of a grey picture of 640×480 pixels, and the corners of these cells"
    cols, rows = 640//cell, 480//cell
    im, at = Image.new('RGB', (640, 480), (128, 128, 128)), rng.permutation(cols*rows)[:len(photos)]
    corners = np.stack([at % cols, at//cols], 1)*cell
    for photo,corner in zip(photos, corners):
        im.paste(photo.resize((cell, cell), Image.Resampling.LANCZOS), tuple(corner.tolist()))
    return im, corners

def matched(people, corners, cell):
    "The row of the largest face in each cell, or -1, and how many faces are left over"
    middle = people[['x0', 'y0']].to_numpy()/2 + people[['x1', 'y1']].to_numpy()/2
    inside = ((middle >= corners[:,None]) & (middle < corners[:,None] + cell)).all(2)
    rows = np.where(inside.any(1), inside.argmax(1), -1) if len(people) else np.full(len(corners), -1)
    return rows, len(people) - (rows >= 0).sum()

def squared(file):
    "The upper square of a photo"
    photo = read_photo(file)
    return photo.crop((0, 0, min(photo.size), min(photo.size)))

def count_pictures(name, t, cell, share, rng):
    "A row for 200 people"
    n = rng.binomial(200, share)
    some = pd.concat([t[t.label == o].sample(k, replace=True, random_state=rng)
                      for o,k in dict(women=n, men=200 - n).items()]).sample(frac=1, random_state=rng)
    most = min(20, (640//cell)*(480//cell))
    parts = [some[i:i+most] for i in range(0, 200, most)]
    made = [picture([squared(o) for o in part.file], cell, rng) for part in parts]
    res = count_people([im for im,_ in made], progress=False)
    ends = res.photos[['men', 'women', 'unsure']].sum(axis=1).cumsum()
    found = right = extra = 0
    for part,(_,corners),end,start in zip(parts, made, ends, [0, *ends]):
        people = res.people[start:end]
        rows, more = matched(people, corners, cell)
        found, extra = found + (rows >= 0).sum(), extra + more
        right += (people.label.to_numpy()[rows[rows >= 0]] == part.label.to_numpy()[rows >= 0]).sum()
    total = res.totals.loc['women']
    return dict(set=name, cell=cell, people=200, found=found, extra=extra, right=right,
                unsure=(res.people.label == 'unsure').sum(), women=n, answers=(res.people.women > .5).sum(),
                estimate=total.estimate, low=total.low, high=total.high)

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=Path, default=Path('../shared/data'))
    parser.add_argument('--estimators', action='store_true', help='leave the pictures out')
    args = parser.parse_args()
    tables, out, rng = sets(args.data), Path(__file__).parent/'results', np.random.default_rng(0)
    if not args.estimators:
        rows = [count_pictures(o, tables[o], cell, share, rng)
                for o in ('FairFace', 'Congress') for cell in (32, 64, 128) for share in (.2, .5, .8)]
        pd.DataFrame(rows).to_csv(out/'count.csv', index=False, float_format='%.4g')
        print(pd.DataFrame(rows).to_string(), flush=True)
    tables = {k: t.assign(p=judged(t.file, not k.startswith('FairFace'))) for k,t in tables.items()}
    table = estimators(tables)
    table.to_csv(out/'count_estimators.csv', index=False, float_format='%.4g')
    print(table.to_string())
