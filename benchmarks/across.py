"""Trained on one set, tested on another:

    python benchmarks/across.py [--data FOLDER] [--hardware WORDS]

A new head on EfficientNet-Lite0, four epochs at 128 pixels, trained on FOLDER/congress and on FOLDER/wild in
turn. Each is scored on the held-out part of its own set (congress: the fifth that was not trained on; wild:
its test part), on all of the other set, and on the other's test part where it has one. Each adds rows to
benchmarks/results/across.csv; rows that stand there already are not measured again.

The portrait body is not among them: it has learned from most of these photos with their labels.
"""
import argparse
from pathlib import Path
import pandas as pd
from genderres.all import evaluate, gender_dls, photos_from_folder, run_experiment, score_table

results = Path(__file__).parent/'results/across.csv'
names = dict(man='men', woman='women')   # what wild calls the classes of congress

def table(folder, split=True):
    "The labelled photos of a set, its classes named as in congress, with its own split or without"
    found = photos_from_folder(folder).query("problem == ''")
    return found.assign(label=found.label.replace(names))[
        ['file', 'label', *(['split'] if split and found.split.any() else [])]]

def scores(answers, vocab):
    "Accuracy and recalls with their intervals, as the columns of a row"
    res = score_table(answers.label, answers.prediction, vocab)
    return dict(n=res.n['accuracy'], right=res.right['accuracy'],
                **{f'{key.replace(" ", "_")}{"" if o == "share" else "_" + o}': res[o][key]
                   for key in res.index for o in ('share', 'low', 'high')})

def measure(folder, other):
    "The rows of one training"
    dls = gender_dls(table(folder), size=128, num_workers=0)
    clf = run_experiment(dls, arch='tf_efficientnet_lite0', weights='lite0', seed=42).learn.to_classifier()
    base = dict(weights='lite0', trained_on=folder.name, n_train=sum(clf.facts['trained']['photos']['train'].values()))
    own = evaluate(clf, table(folder), progress=False)
    yield base | dict(scored_on=folder.name, part='held out') | scores(own.query("problem == ''"), clf.vocab)
    every = evaluate(clf, table(other, split=False), progress=False).query("problem == ''")
    yield base | dict(scored_on=other.name, part='all') | scores(every, clf.vocab)
    parts = table(other)
    if 'split' in parts:
        test = every[every.file.isin(parts.file[parts.split == 'test'])]
        yield base | dict(scored_on=other.name, part='test') | scores(test, clf.vocab)

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=Path, default=Path('../shared/data'))
    parser.add_argument('--trained-on', nargs='+', choices=['congress', 'wild'], default=['congress', 'wild'])
    parser.add_argument('--hardware', default='unknown', help='the machine, in words')
    args = parser.parse_args()
    done = pd.read_csv(results).trained_on.tolist() if results.exists() else []
    for name in args.trained_on:
        if name in done: continue
        other = 'wild' if name == 'congress' else 'congress'
        rows = pd.DataFrame([*measure(args.data/name, args.data/other)]).assign(hardware=args.hardware)
        rows.to_csv(results, mode='a', header=not results.exists(), index=False)
        print(rows.T, flush=True)

if __name__ == '__main__': main()
