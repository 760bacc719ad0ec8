"""Judge a body with its head on photos that it was not trained on

    python pretrain/evaluate.py checkpoints/portrait/portrait.safetensors --data DATA --faces FACES.csv --out ready.csv

Scored are FairFace's test crops as they are, whole and by group and age band; the portraits of Congress of
the persons whom `train.py` held out, and the snapshots of `wild/test`, whole and cut around the largest face
in the table FACES.csv, from `faces.py`. A snapshot without a face is judged whole. That there is no margin
around a face was chosen on `wild/valid`.

Writes one row for each part: right, n, accuracy and its 95% interval, and right and n of each class.
"""
import argparse
from pathlib import Path
import numpy as np, pandas as pd, torch
from PIL import Image, ImageOps
from genderres.stats import wilson
from train import AGES, VOCAB, held_out, logits_of, network, square_around

def sets(root, faces) -> dict: # Name → table with `file`, `label` and perhaps `box`, `race`, `age`
    "The photos of each set"
    fair = pd.read_csv(root/'fairface/labels.csv').query("split == 'test'").assign(file=lambda t: 'fairface/' + t.file)
    box = pd.read_csv(faces).set_index('file')[['x0', 'y0', 'x1', 'y1']].apply(list, axis=1)
    lab = pd.read_csv(root/'congress/labels.csv')
    lab = lab[lab.person.map(lambda o: held_out(o, 5))]
    congress = pd.DataFrame(dict(file='congress/' + lab.file, label=lab.label))
    wild = pd.DataFrame([
        dict(file=o.relative_to(root).as_posix(), label={'man': 'men', 'woman': 'women'}[o.parent.name])
        for o in sorted((root/'wild/test').rglob('*.jpg'))])
    with_box = lambda t: t.assign(box=[box.get(o) for o in t.file])
    return {'FairFace test': fair, 'congress, whole photo': congress, 'congress, face': with_box(congress),
            'wild, whole photo': wild, 'wild, face where found': with_box(wild),
            'wild, photos with a face': with_box(wild[wild.file.isin(box.index)])}

def pixels(file, box, size): # (3, size, size), uint8
    "A photo, upright, or the square around a face, without a margin, as FairFace's crops have it"
    im = ImageOps.exif_transpose(Image.open(file)).convert('RGB')
    if isinstance(box, list): im = im.crop([round(o) for o in square_around(box, im.size, 1.)])
    return torch.from_numpy(np.array(im.resize((size, size), Image.BILINEAR))).permute(2, 0, 1)

def answers(net, root, table, size) -> np.ndarray: # (n, 2) logits
    "What the network says of each photo"
    boxes = table.box if 'box' in table else [None]*len(table)
    return logits_of(net, torch.stack([pixels(root/f, b, size) for f,b in zip(table.file, boxes)]), size)

def row(name, part, right, label) -> dict:
    "Accuracy with its interval, and how many of each class are right"
    share, low, high = wilson(int(right.sum()), len(right))
    classes = {f'{k}_{c}': int(v) for c in VOCAB
               for k,v in dict(right=right[label == c].sum(), n=(label == c).sum()).items()}
    return dict(set=name, part=part, n=len(right), right=int(right.sum()),
                accuracy=share, low=low, high=high, **classes)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('weights')
    p.add_argument('--data', type=Path, required=True)
    p.add_argument('--faces', required=True)
    p.add_argument('--out', required=True)
    p.add_argument('--size', type=int, default=128)
    a = p.parse_args()
    net = network(a.weights, head=True).eval()
    rows = []
    for name,t in sets(a.data, a.faces).items():
        right = pd.Series(answers(net, a.data, t, a.size).argmax(1) == t.label.map(VOCAB.index).to_numpy(), t.index)
        rows.append(row(name, 'all', right, t.label))
        if 'race' in t:
            adult = ~t.age.isin(AGES[:3])
            rows += [row(name, f'group: {o}, age 20 and over', right[m], t.label[m])
                     for o in sorted(t.race.unique()) for m in [adult & (t.race == o)]]
            rows += [row(name, f'age: {o}', right[m], t.label[m]) for o in AGES for m in [t.age == o]]
        print(pd.DataFrame(rows)[-17 if 'race' in t else -1:].round(3).to_string(), flush=True)
    pd.DataFrame(rows).round(4).to_csv(a.out, index=False)

if __name__ == '__main__': main()
