"""How many turned labels does `review_labels` find? python benchmarks/labels.py [--data FOLDER]

In `congress` and in `wild` of FOLDER, one label in twenty is turned round, for three seeds; the suspects are
compared with what was turned. Writes benchmarks/results/labels.csv. In `wild`, many labels are wrong to begin
with, so its precision is a lower bound. The strength of the regression's penalty in `review_labels` was
chosen on `congress` with seeds 0 and 1.
"""
import argparse
from pathlib import Path
import numpy as np, pandas as pd
from genderres.all import gender_dls, photos_from_source, review_labels

def measure(folder, seed):
    "One row of results"
    photos = photos_from_source(folder).query("problem == '' and label != ''").reset_index(drop=True)
    turned = np.random.default_rng(seed).choice(len(photos), len(photos)//20, replace=False)
    other = dict(zip(sorted(set(photos.label)), sorted(set(photos.label))[::-1]))
    photos.loc[turned, 'label'] = photos.label[turned].map(other)
    dls = gender_dls(photos[['file', 'label']], size=128, num_workers=0)
    found = review_labels(dls)
    hits = found.file.isin(photos.file[turned]).sum()
    return dict(set=folder.name, photos=len(photos), turned=len(turned), seed=seed,
                suspects=len(found), precision=hits/len(found), recall=hits/len(turned))

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=Path, default=Path('../shared/data'))
    args = parser.parse_args()
    rows = pd.DataFrame([measure(args.data/name, seed) for name in ('congress', 'wild') for seed in range(3)])
    rows.to_csv(Path(__file__).parent/'results/labels.csv', index=False)
    print(rows)
