"""What a pretrained body is worth when photos are few:

    python benchmarks/few_photos.py [--data FOLDER] [--faces FILE] [--size 128]

FOLDER holds `congress/` (scored on the persons whom `pretrain/train.py` kept from the training of the
portrait body) and `wild/` (trained on train and valid, scored on test). The set `faces` is close-ups cut from
`wild/`, with the boxes of FILE (file, x0, y0, x1, y1): trained on those of train, scored on those of valid
and test.

From 50 to all photos, drawn at random for each seed, train a logistic regression on frozen features ("probe")
and the paper's four epochs, each from the portrait body, from scratch, and from EfficientNet-Lite0's ImageNet
weights, always with a new head (`heads.py` has the ready classifier's). Each run adds a row to
benchmarks/results/few_photos.csv; rows that stand there are not repeated.
"""
import argparse, sys, tempfile, time
from pathlib import Path
import numpy as np, pandas as pd, torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from genderres.all import GenderInterpretation, gender_dls, gender_learner, photos_from_source, score_table, set_seed
from genderres.reader import read_photo
sys.path.insert(0, str(Path(__file__).parents[1]/'pretrain'))
from train import held_out, square_around

results = Path(__file__).parent/'results/few_photos.csv'
starts = dict(portrait=dict(head='fastai'), scratch=dict(weights=None),
              lite0=dict(arch='tf_efficientnet_lite0', weights='lite0'))

def faces(root, table, folder):
    """Close-ups of the faces in `wild`, cut inside the photo and written into `folder`;
    those of valid and test are scored"""
    rows = []
    for r in pd.read_csv(table).query("file.str.startswith('wild/')").itertuples():
        im = read_photo(root/r.file)
        file = Path(folder)/f'{len(rows)}.png'
        im.crop([round(o) for o in square_around((r.x0, r.y0, r.x1, r.y1), im.size, 1.5)]).save(file)
        _, split, label, _ = r.file.split('/')
        rows.append(dict(file=file, label=dict(man='men', woman='women')[label], test=split != 'train'))
    return pd.DataFrame(rows)

def photos(root, name):
    "The photos of a set in a fixed order, and which of them are scored"
    df = photos_from_source(root/name).query("problem == '' and label != ''").reset_index(drop=True)
    if name == 'congress':
        person = pd.read_csv(root/'congress/labels.csv').set_index('file').person
        test = [held_out(person[str(Path(o).relative_to(root/'congress'))], 5) for o in df.file]
    else: test = df.split == 'test'
    return df[['file', 'label']].assign(test=np.asarray(test))

def parts(df, n, seed):
    "`n` photos to train on (0: all but 16), 16 others to look at in training, and those to score"
    pool = df[~df.test].sample(frac=1, random_state=seed)
    return pd.concat([pool[:-16].head(n or len(pool)).assign(split='train'),
                      pool[-16:].assign(split='valid'), df[df.test].assign(split='test')])

@torch.inference_mode()
def features(df, start, size):
    "The pooled features of every photo"
    dls = gender_dls(df[['file', 'label']], size=size, num_workers=0)
    body = gender_learner(dls, **starts[start]).model[0].eval()
    dl = dls.test_dl(df, bs=64)
    return np.concatenate([body(b[0].contiguous(memory_format=torch.channels_last)).mean((2,3)).numpy() for b in dl])

def probe(x, df, n, seed):
    "A logistic regression on features of the training photos; labels and answers of those to score"
    row = dict(zip(df.file, x))
    split = parts(df, n, seed)
    train, test = (split[split.split == o] for o in ('train', 'test'))
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=3000))
    model.fit(np.stack([row[o] for o in train.file]), train.label)
    return test.label.tolist(), model.predict(np.stack([row[o] for o in test.file])).tolist()

def four_epochs(df, start, n, seed, size):
    "The paper's recipe; labels and answers of the photos to score"
    set_seed(seed)
    dls = gender_dls(parts(df, n, seed)[['file', 'label', 'split']], valid_col='split', size=size, num_workers=0)
    dls.train.rng.seed(seed)
    learn = gender_learner(dls, **starts[start])
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(4)
    res = GenderInterpretation.from_learner(learn, ds_idx=2).to_df()
    return res.label.tolist(), res.prediction.tolist()

def run(args, tmp):
    "The rows that are missing, one after the other"
    keys = ['set', 'start', 'method', 'size', 'n_train', 'seed']
    done = pd.read_csv(results) if results.exists() else pd.DataFrame(columns=keys)
    for name in args.sets:
        df = faces(args.data, args.faces, tmp) if name == 'faces' else photos(args.data, name)
        for method in args.methods:
            for start in args.starts:
                x = None
                for n in args.photos:
                    for seed in args.seeds:
                        n_train = min(n or 10**9, int((~df.test).sum())-16)
                        key = [name, start, method, args.size, n_train, seed]
                        if method == 'probe' and start == 'scratch' or (done[keys] == key).all(axis=1).any(): continue
                        begin = time.time()
                        if method == 'probe':
                            if x is None: x = features(df, start, args.size)
                            labels, answers = probe(x, df, n, seed)
                        else: labels, answers = four_epochs(df, start, n, seed, args.size)
                        s = score_table(labels, answers, sorted(set(labels)))
                        row = dict(zip(keys, key)) | dict(n=s.n['accuracy'], right=s.right['accuracy'])
                        for c,k in zip(s.index[1:], ('men', 'women')):
                            row |= {f'n_{k}': s.n[c], f'right_{k}': s.right[c]}
                        done = pd.DataFrame([*done.to_dict('records'), row | dict(seconds=round(time.time()-begin, 1))])
                        done.to_csv(results, index=False)
                        print(row, flush=True)

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=Path, default=Path('../shared/data'))
    parser.add_argument('--sets', nargs='+', choices=['congress', 'wild', 'faces'], default=['congress', 'wild'])
    parser.add_argument('--faces', type=Path, help="table of faces: file, x0, y0, x1, y1; for the set `faces`")
    parser.add_argument('--starts', nargs='+', choices=[*starts], default=[*starts])
    parser.add_argument('--photos', nargs='+', type=int, default=[50, 100, 200, 500, 1000],
                        help='how many to train on; 0 for all')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0])
    parser.add_argument('--methods', nargs='+', choices=['probe', 'epochs'], default=['probe', 'epochs'])
    parser.add_argument('--size', type=int, default=128)
    args = parser.parse_args()
    if 'faces' in args.sets and not args.faces: parser.error('the set faces needs --faces FILE')
    with tempfile.TemporaryDirectory() as tmp: run(args, tmp)

if __name__ == '__main__': main()
