"""Trained on one set, tested on another: python benchmarks/across.py [--data FOLDER] [--hardware WORDS]

A new head on a frozen body, four epochs at 128 pixels, trained on FOLDER/congress and on FOLDER/wild in turn. Each is scored on the held-out part of its own set (congress: the fifth
that was not trained on; wild: its test part), on all of the other set, and on the other's test part where it has one. Each adds a row to
benchmarks/results/across.csv; rows that stand there already are not measured again. The classifiers are kept in --models, where benchmarks/peers.py finds them.

The portrait body has seen all photos of congress and those of wild/train before, without their labels; those of wild/test it has not. Lite0 has seen none of either, as far as anybody knows.
"""
import argparse
from importlib.resources import files
from pathlib import Path
import pandas as pd
from safetensors import safe_open
from genderres.all import GenderClassifier, evaluate, fastai_path, gender_dls, photos_from_folder, run_experiment, score_table

results = Path(__file__).parent/'results/across.csv'
networks = dict(portrait='resnet34', lite0='tf_efficientnet_lite0')   # weights → architecture
names = dict(man='men', woman='women')   # what wild calls the classes of congress
models = fastai_path('model')/'benchmarks'

def table(folder, split=True):
    "The labelled photos of a set, its classes named as in congress, with its own split or without"
    found = photos_from_folder(folder).query("problem == ''")
    return found.assign(label=found.label.replace(names))[['file', 'label', *(['split'] if split and found.split.any() else [])]]

def body(weights):
    "The name of a body; the portrait body may change with the package, so its checksum belongs to it"
    if weights != 'portrait': return weights
    with safe_open(files('genderres')/'portrait.safetensors', 'pt') as f: return f"portrait {f.metadata()['sha256'][:8]}"

def classifier(folder, weights, models=models, seed=42):
    "Four epochs on a set, or what was kept of them"
    file = models/f'{folder.name} {body(weights)} {seed}.safetensors'
    if file.is_file(): return GenderClassifier.load(file)
    dls = gender_dls(table(folder), size=128, num_workers=0)
    clf = run_experiment(dls, arch=networks[weights], weights=weights, seed=seed).learn.to_classifier()
    models.mkdir(parents=True, exist_ok=True)
    clf.save(file)
    return clf

def scores(answers, vocab):
    "Accuracy and recalls with their intervals, as the columns of a row"
    res = score_table(answers.label, answers.prediction, vocab)
    return dict(n=res.n['accuracy'], right=res.right['accuracy'],
                **{f'{key.replace(" ", "_")}{"" if o == "share" else "_" + o}': res[o][key] for key in res.index for o in ('share', 'low', 'high')})

def measure(folder, other, weights, models):
    "The rows of one training"
    clf = classifier(folder, weights, models)
    base = dict(weights=weights, trained_on=folder.name, n_train=sum(clf.facts['trained']['photos']['train'].values()))
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
    parser.add_argument('--weights', nargs='+', choices=[*networks], default=[*networks])
    parser.add_argument('--trained-on', nargs='+', choices=['congress', 'wild'], default=['congress', 'wild'])
    parser.add_argument('--models', type=Path, default=models)
    parser.add_argument('--hardware', default='unknown', help='the machine, in words')
    args = parser.parse_args()
    done = pd.read_csv(results) if results.exists() else pd.DataFrame(columns=['weights', 'trained_on'])
    for weights in args.weights:
        for name in args.trained_on:
            if (done[['weights', 'trained_on']] == [weights, name]).all(axis=1).any(): continue
            other = 'wild' if name == 'congress' else 'congress'
            rows = pd.DataFrame([*measure(args.data/name, args.data/other, weights, args.models)]).assign(hardware=args.hardware)
            rows.to_csv(results, mode='a', header=not results.exists(), index=False)
            print(rows.T, flush=True)

if __name__ == '__main__': main()
