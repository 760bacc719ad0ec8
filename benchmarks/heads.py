"""Does a head that starts from the ready classifier's answers learn from fewer photos?

    python benchmarks/heads.py --faces FILE [--data FOLDER]

FOLDER holds `wild/` and `fairface/`; FILE has faces (file, x0, y0, x1, y1), from `pretrain/faces.py`. No
photo here was seen by the training of the portrait body: snapshots of `wild/valid` to train on and of
`wild/test` to score, whole (`wild`) and cut to the largest face (`faces`); and the crops of FairFace that
`pretrain/train.py` held out, scored on its test crops.

Four frozen epochs at 128 px, three seeds: from the answers, from the same body with fastai's random head, and
from Lite0. Each run adds a row to benchmarks/results/heads.csv; rows that stand there are not repeated.
"""
import argparse, sys, tempfile
from pathlib import Path
import pandas as pd, torch
from genderres.all import gender_dls, gender_learner, set_seed
from genderres.reader import read_photo
sys.path.insert(0, str(Path(__file__).parents[1]/'pretrain'))
from train import held_out, square_around

results = Path(__file__).parent/'results/heads.csv'
starts = dict(answers=dict(), portrait=dict(head='fastai'), lite0=dict(arch='tf_efficientnet_lite0', weights='lite0'))

def wild(root):
    "The snapshots that no body has learned from"
    rows = [dict(file=o, label={'man': 'men', 'woman': 'women'}[o.parent.name], test=part == 'test')
            for part in ('valid', 'test') for o in sorted((root/'wild'/part).rglob('*.jpg'))]
    return pd.DataFrame(rows)

def faces(root, boxes, folder):
    "The same where a face is found, cut to a square around it"
    boxes, rows = boxes.set_index('file'), []
    for r in wild(root).itertuples():
        if (name := r.file.relative_to(root).as_posix()) not in boxes.index: continue
        im, file = read_photo(r.file), Path(folder)/f'{len(rows)}.png'
        im.crop([round(o) for o in square_around(
            boxes.loc[name, ['x0', 'y0', 'x1', 'y1']].tolist(), im.size, 1.)]).save(file)
        rows.append(dict(file=file, label=r.label, test=r.test))
    return pd.DataFrame(rows)

def fairface(root):
    "The crops that were held out, and a third of the test crops"
    t = pd.read_csv(root/'fairface/labels.csv')
    t = t[(t.split == 'test') & (t.index % 3 == 0) | (t.split == 'train') & t.file.map(held_out)]
    return pd.DataFrame(dict(file=[root/'fairface'/o for o in t.file], label=t.label,
                             test=t.split == 'test')).reset_index(drop=True)

@torch.inference_mode()
def scored_maps(df, start):
    "What the frozen body makes of the photos to score, and their labels"
    dls = gender_dls(df.assign(split=df.test.map({True: 'valid', False: 'train'}))[['file', 'label', 'split']],
                     valid_col='split', size=128, num_workers=0)
    body = gender_learner(dls, **starts[start]).model[0].eval()
    return torch.cat([body(x) for x,_ in dls.valid]), dls.valid_ds.items.label.tolist()

def right(df, start, n, seed, maps, labels):
    "How many of the photos to score are right after four epochs on `n` others"
    pool = df[~df.test].sample(frac=1, random_state=seed)
    train = pd.concat([pool[:n or 16].assign(split='train'), pool[-16:].assign(split='valid')])
    set_seed(seed)
    dls = gender_dls(train[['file', 'label', 'split']], valid_col='split', size=128, num_workers=0)
    dls.train.rng.seed(seed)
    learn = gender_learner(dls, **starts[start])
    if n:
        learn.to_rapid(dtype=torch.float32)
        with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(4)
    with torch.inference_mode(): said = learn.model[1].eval()(maps).argmax(1)
    return sum(dls.vocab[i] == o for i,o in zip(said.tolist(), labels))

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', type=Path, default=Path('../shared/data'))
    p.add_argument('--faces', type=Path, required=True)
    p.add_argument('--photos', nargs='+', type=int, default=[0, 20, 50, 180, 1000], help='how many to train on')
    args = p.parse_args()
    keys = ['set', 'start', 'n_train', 'seed']
    done = pd.read_csv(results) if results.exists() else pd.DataFrame(columns=keys)
    with tempfile.TemporaryDirectory() as tmp:
        sets = dict(wild=wild(args.data), faces=faces(args.data, pd.read_csv(args.faces), tmp),
                    fairface=fairface(args.data))
        for name,df in sets.items():
            for start in starts:
                maps, labels = scored_maps(df, start)
                for n in [o for o in args.photos if o <= (~df.test).sum() - 16 and (o or start == 'answers')]:
                    for seed in range(3 if n else 1):
                        key = [name, start, n, seed]
                        if (done[keys] == key).all(axis=1).any(): continue
                        row = dict(zip(keys, key)) | dict(n=len(labels), right=right(df, start, n, seed, maps, labels))
                        done = pd.DataFrame([*done.to_dict('records'), row])
                        done.to_csv(results, index=False)
                        print(row, flush=True)

if __name__ == '__main__': main()
