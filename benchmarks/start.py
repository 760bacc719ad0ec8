"""How long it takes to judge one photo, from the start of a process to the answer, beside plain fastai:

    python benchmarks/start.py [--hardware WORDS]

Plain fastai loads an exported learner with a ResNet34 (`load_learner`) and calls `predict`. This library runs
`genderres predict` on the same drawn portrait: with the classifier in the package, which looks for a face
first, and with one of our own with a ResNet34, as .safetensors and as .onnx. All in turn, `--turns`
times, each in a process of its own. Each row of benchmarks/results/start.csv is the median of a way; JSON
with the ratios is printed.
"""
import argparse, json, subprocess, sys, tempfile, time, warnings
from pathlib import Path
import pandas as pd
from genderres.all import gender_dls, gender_learner, sample_portraits, set_seed

results = Path(__file__).parent/'results/start.csv'
fastai_plain = 'import sys; from fastai.vision.all import *; print(load_learner(sys.argv[1]).predict(sys.argv[2])[0])'

def ways(folder):
    "Name → command that judges one photo"
    photos = sample_portraits(folder/'photos', n=40, size=224)
    photo = str(next(photos.glob('men/*')))
    warnings.simplefilter('ignore')
    set_seed(0)
    learn = gender_learner(gender_dls(photos, size=224, num_workers=0), head='fastai')
    clf = learn.to_classifier()
    clf.save(folder/'mine.safetensors')
    clf.to_onnx(folder/'mine.onnx')
    # the learner of plain fastai, with photos of the same folder
    make = ('import sys; from fastai.vision.all import *; '
            'dls = ImageDataLoaders.from_folder(sys.argv[1], valid_pct=.2, item_tfms=Resize(224), num_workers=0); '
            'vision_learner(dls, resnet34, pretrained=False).export(sys.argv[2])')
    subprocess.run([sys.executable, '-c', make, photos, folder/'plain.pkl'], check=True)
    ours = [Path(sys.executable).with_name('genderres'), 'predict', photo]
    return {'load_learner, predict': [sys.executable, '-c', fastai_plain, folder/'plain.pkl', photo],
            'genderres predict': ours,
            'genderres predict, .safetensors': [*ours, '--model', folder/'mine.safetensors'],
            'genderres predict, .onnx': [*ours, '--model', folder/'mine.onnx']}

def seconds(command):
    "Of a process, from its start to its end"
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--turns', type=int, default=7)
    p.add_argument('--hardware', default='unknown', help='the machine, in words')
    args = p.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        commands = ways(Path(tmp))
        taken = pd.DataFrame([{k: seconds(v) for k,v in commands.items()} for _ in range(args.turns + 1)][1:])
    rows = taken.median().rename_axis('way').rename('seconds').reset_index()
    rows = rows.assign(least=taken.min().values, most=taken.max().values, turns=args.turns, hardware=args.hardware)
    rows.to_csv(results, index=False, float_format='%.3g')
    print(json.dumps({'times as fast': (rows.seconds[0]/rows.set_index('way').seconds).round(2).to_dict()}))

if __name__ == '__main__': main()
