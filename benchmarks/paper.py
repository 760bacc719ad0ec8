"""The paper's experiment on the paper's photos:

    python benchmarks/paper.py --data FOLDER [--starts ...] [--rates ...] [--splits ...] [--seeds ...]

FOLDER holds `men/` and `women/`, the Kaggle set `playlist/men-women-classification` or what can still be
found of it. Each run splits 80 to 20, flips, crops to 224×224 with probability 0.5, trains four one-cycle
epochs, with a frozen body where there are weights, and judges the rest.

Starts: `scratch`; `portrait`, the default of `gender_learner`; `lite0`; `faces`, as `portrait`, on the
largest face of each photo, at 128 pixels; `imagenet`, which downloads ResNet34's weights. Rates: `paper`,
slice(1e-5, 1e-4), and `ours`, the default 3e-3. `--starts ready` trains nothing: the ready classifier judges
the same photos. `--starts both` trains nothing either: it takes the mean of the probabilities of `faces` and of
`lite0`, which looks at the whole photo, from what runs with `--answers FOLDER` leave in that folder.

Each run adds a row to benchmarks/results/paper.csv; rows that stand there are not repeated, unless `--answers` are
missing.

`--bf16` computes in half precision; `--by-faces` writes what the ready classifier makes of photos with no,
one and several faces; `--check` counts copies, the pairs of them that each split tears apart, and the labels
that `review_labels` doubts.

results/paper_kinds.csv is not measured: it says what is seen on the 120 photos with the largest losses of the
ready classifier, and on those that `review_labels` doubts.
"""
import argparse, math, time
from functools import lru_cache
from pathlib import Path
import pandas as pd
from genderres.all import Autocast, GenderInterpretation, gender_dls, gender_learner, review_labels, set_seed
from genderres.check import inspect_photos, torn_pairs
from genderres.photos import photos_from_source
from genderres.ready import ReadyClassifier

results = Path(__file__).parent/'results/paper.csv'
starts = dict(scratch=dict(weights=None), portrait={}, faces={},
              lite0=dict(arch='tf_efficientnet_lite0', weights='lite0'), imagenet=dict(weights='DEFAULT'))
rates = dict(paper=slice(1e-5, 1e-4), ours=None)
keys = ['start', 'rate', 'split', 'seed']

def data(folder, start, split, seed):
    "The photos of one run"
    return gender_dls(folder, split=split, seed=seed, num_workers=0,
                      **(dict(faces='largest', size=128) if start == 'faces' else {}))

def train(dls, start, rate, seed, bf16):
    "Answers after four epochs, as a table with `loss`, and the seconds that the training took"
    set_seed(seed)
    dls.train.rng.seed(seed)
    learn = gender_learner(dls, cbs=Autocast() if bf16 else None, **starts[start])
    begin = time.time()
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(4, rates[rate])
    seconds = time.time() - begin
    with learn.no_bar(): return GenderInterpretation.from_learner(learn).to_df(), seconds

def both(tables):
    "The mean of the probabilities in two tables of answers for the same photos"
    one, two = (o.set_index('file') for o in tables)
    own = ((-one.loss).map(math.exp) + (-two.loss.reindex(one.index)).map(math.exp))/2   # of the label
    other = one.label.map(dict(men='women', women='men'))
    return one.assign(prediction=one.label.where(own > .5, other), loss=-own.map(math.log)).reset_index()

@lru_cache
def ready(folder):
    "The answers of the ready classifier for all photos"
    table = ReadyClassifier().predict(folder, abstain=0.).set_index('file')
    return table.rename(columns=dict(label='prediction'))

def judged(table):
    "Figures of a table with `label`, `prediction` and `loss`"
    ok = table.label == table.prediction
    each = {f'{what}_{c}': int(o.sum()) for c in ('men', 'women')
            for what,o in (('n', table.label == c), ('right', ok & (table.label == c)))}
    return dict(n=len(table), right=int(ok.sum()), **each, largest_loss=round(float(table.loss.max()), 2))

def answers_file(folder, *key):
    "Where the answers of a run are kept; None without a folder"
    return folder and folder/f'{"-".join(map(str, key))}.csv'

def run(folder, start, rate, split, seed, bf16, answers):
    "A row of results"
    precision = 'bfloat16' if bf16 else 'float32'
    if start == 'both':
        tables = [pd.read_csv(answers_file(answers, o, rate, split, seed)) for o in ('faces', 'lite0')]
        return judged(both(tables)) | dict(seconds=0, precision=precision)
    dls = data(folder, start, split, seed)
    if start != 'ready':
        table, seconds = train(dls, start, rate, seed, bf16)
        if file := answers_file(answers, start, rate, split, seed): table.to_csv(file, index=False)
        return judged(table) | dict(seconds=round(seconds), precision=precision)
    part = dls.photos[dls.photos.split == 'valid']
    table = part[['file', 'label']].join(ready(folder)[['men', 'women', 'prediction']], on='file')
    own = table.men.where(table.label == 'men', table.women)
    return judged(table.assign(loss=-own.clip(1e-12).map(math.log))) | dict(seconds=0, precision='float32')

def by_faces(folder):
    "How often the ready classifier is right, by the number of faces that are found in a photo"
    photos = gender_dls(folder, faces='largest').photos
    table = photos[photos.usable].join(ready(folder).prediction, on='file')
    n = table.faces.clip(upper=2).map({0: 'none', 1: 'one', 2: 'several'})
    return (table.assign(right=table.label == table.prediction)
            .groupby([n, 'label']).right.agg(['size', 'sum']).set_axis(['n', 'right'], axis=1))

def check(folder):
    "What `check_images` and `review_labels` find, and the pairs of copies that each split of each seed tears apart"
    photos, _, pairs = inspect_photos(photos_from_source(folder))
    one, two = (photos.label.to_numpy()[pairs[o]] for o in ('one', 'two'))
    doubted = len(review_labels(gender_dls(folder, faces='largest', size=128, num_workers=0)))
    rows = [('pairs of copies', '', '', len(pairs)),
            ('pairs under two labels', '', '', int((one != two).sum())),
            ('labels in doubt', '', '', doubted)]
    rows += [('pairs torn apart', split, seed,
              torn_pairs(gender_dls(folder, split=split, seed=seed, num_workers=0).photos, pairs))
             for split in ('random', 'grouped') for seed in range(5)]
    return pd.DataFrame(rows, columns=['finding', 'split', 'seed', 'n'])

def read():
    "The rows so far"
    return pd.read_csv(results, keep_default_na=False) if results.exists() else pd.DataFrame(columns=keys)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', type=Path, default=Path('../shared/data/paper'))
    p.add_argument('--starts', nargs='+', choices=[*starts, 'ready', 'both'],
                   default=['ready', 'lite0', 'portrait', 'faces', 'scratch'])
    p.add_argument('--rates', nargs='+', choices=[*rates], default=['ours', 'paper'])
    p.add_argument('--splits', nargs='+', choices=['random', 'grouped'], default=['random', 'grouped'])
    p.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2, 3, 4])
    p.add_argument('--bf16', action='store_true')
    p.add_argument('--answers', type=Path, help='folder for the answers of each run')
    p.add_argument('--by-faces', action='store_true', help='only write results/paper_faces.csv')
    p.add_argument('--check', action='store_true', help='only write results/paper_check.csv')
    args = p.parse_args()
    if args.answers: args.answers.mkdir(parents=True, exist_ok=True)
    if args.by_faces: return by_faces(args.data).to_csv(results.with_name('paper_faces.csv'))
    if args.check: return check(args.data).to_csv(results.with_name('paper_check.csv'), index=False)
    for split in args.splits:
        for start in args.starts:
            for rate in ['none'] if start == 'ready' else args.rates:
                for seed in args.seeds:
                    key, rows = [start, rate, split, seed], read()
                    file = answers_file(args.answers, *key) if start in starts else None
                    if (rows[keys] == key).all(axis=1).any() and not (file and not file.exists()): continue
                    row = dict(zip(keys, key)) | run(args.data, *key, args.bf16, args.answers)
                    rows = read()   # another process may have added some
                    rows = pd.concat([rows[~(rows[keys] == key).all(axis=1)], pd.DataFrame([row])])
                    rows.to_csv(results, index=False)
                    print(row, flush=True)

if __name__ == '__main__': main()
