"""Is a group of people served worse? python benchmarks/groups.py [--data FOLDER] [--folds K]

FOLDER holds `congress/` with `labels.csv`. Cross-validation by person: a new head on EfficientNet-Lite0, 128
pixels, four epochs (the portrait body has learned from these portraits with their labels); then the answers
to all portraits are counted by the years in which the person sat in Congress last, and by whether the
portrait is greyscale. The counts go into benchmarks/results/groups.csv, the folds into
benchmarks/results/folds.csv.
"""
import argparse
from pathlib import Path
import numpy as np, pandas as pd
from genderres.all import Callback, CancelValidException, cross_validate
from genderres.reader import read_photo

results = Path(__file__).parent/'results/groups.csv'

class NoScoreBetween(Callback):
    "No validation after each epoch: the answers at the end are all that counts"
    def before_validate(self):
        if not hasattr(self.learn, 'gather_preds'): raise CancelValidException()

def years(congress):
    "The first year of a Congress, in bands"
    return pd.cut(1787 + 2*congress, [1972, 1984, 1996, 2008, 2030],
                  labels=['1973 to 1984', '1985 to 1996', '1997 to 2008', 'since 2009'])

def is_grey(file):
    "Are the three channels equal, in the middling pixel?"
    return 'greyscale' if np.median(np.ptp(np.asarray(read_photo(file), int), axis=2)) == 0 else 'colour'

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=Path, default=Path('../shared/data'))
    parser.add_argument('--folds', type=int, default=2)
    args = parser.parse_args()
    folder = args.data/'congress'
    folds, every = cross_validate(folder/'labels.csv', args.folds, data=dict(size=128),
                                  arch='tf_efficientnet_lite0', weights='lite0', cbs=NoScoreBetween())
    people = pd.read_csv(folder/'labels.csv').assign(file=lambda d: [str(folder/o) for o in d.file])
    people = people.assign(years=years(people.congress), film=people.file.map(is_grey))
    tables = [every.by_group(o, people).table.assign(column=o) for o in ('years', 'film')]
    pd.concat(tables)[['column', 'score', 'group', 'right', 'n']].to_csv(results, index=False)
    folds.to_csv(results.with_name('folds.csv'), index_label='fold')
    print(folds, *tables, every.report(), sep='\n')

if __name__ == '__main__': main()
