"""How far a body has come: the share of what its teachers say that a ridge regression on its 512 features explains, on photos it has not seen.

No label is read. Teachers are Lite0, whose pooled features are those of the same pixels (`lite0`, whole photos), and dlib's descriptors (`dlib`,
close-ups of faces), each standardised. `snapshots` are wild/valid and wild/test, which no body has seen; `portraits` the persons held out by
`distil.held_out`, which the trial body had seen. Five-fold, the penalty chosen within each fold; the interval is from 1,000 draws of photos.

    python pretrain/explained.py random trial.safetensors middle.safetensors package.safetensors \\
        --data ../shared/data --faces checkpoints/pretrain/faces.npz --teacher FILE --size 128 224 --out explained.csv
"""
import argparse
from pathlib import Path
import numpy as np, pandas as pd
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from probe import close_ups, features, network
import distil

def photos(
    root,    # Data folder
)-> dict:    # name -> files
    "What no body since the trial body has seen"
    lab = pd.read_csv(root/'congress/labels.csv')
    return dict(snapshots=[o for s in ('valid', 'test') for o in sorted((root/'wild'/s).rglob('*.jpg'))],
                portraits=[root/'congress'/f for f,p in zip(lab.file, lab.person) if distil.held_out(p)])

def explained(
    x,       # n x 512 features
    y,       # n x k numbers to tell from them
)-> dict:    # Share of the variance in per cent, its 95% interval
    "Five-fold share of the variance"
    y = StandardScaler().fit_transform(y)
    y = y[:, y.std(0) > 0]
    p = cross_val_predict(make_pipeline(StandardScaler(), RidgeCV(10.**np.arange(1, 6))), x, y, cv=KFold(5, shuffle=True, random_state=0))
    off, whole = ((y - p)**2).sum(1), (y**2).sum(1)
    draws = np.random.default_rng(0).integers(len(y), size=(1000, len(y)))
    shares = 1 - off[draws].sum(1)/whole[draws].sum(1)
    lo, hi = np.quantile(shares, [.025, .975])
    return dict(n=len(y), **{k: round(100*float(v), 1) for k,v in dict(share=1 - off.sum()/whole.sum(), lo=lo, hi=hi).items()})

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('bodies', nargs='+', help='safetensors files, or random')
    p.add_argument('--data', required=True); p.add_argument('--faces', required=True); p.add_argument('--teacher', required=True)
    p.add_argument('--size', type=int, nargs='+', default=[128]); p.add_argument('--out', required=True, help='CSV file, appended to')
    a = p.parse_args(); root = Path(a.data)
    lite0 = network('lite0', a.teacher)
    for name,files in photos(root).items():
        whole, (faces, _, desc) = close_ups(root, a.faces, files, crop=False)[0], close_ups(root, a.faces, files)
        for size in a.size:
            told = features(lite0, whole, size, False)
            for b in a.bodies:
                net = network(b, None)
                rows = [dict(body=Path(b).stem, set=name, size=size, teacher=t, **explained(features(net, ims, size, False), y)) for t,ims,y in (('lite0', whole, told), ('dlib', faces, desc))]
                print(*rows, sep='\n', flush=True)
                pd.DataFrame(rows).to_csv(a.out, mode='a', index=False, header=not Path(a.out).exists())

if __name__ == '__main__': main()
