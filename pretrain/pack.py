"""Put a distilled body into the package, with its preprocessing, sources, licences and figures: python pretrain/pack.py BODY FIGURES VIEWS

BODY is a file of `distil.py`, FIGURES the table of `probe.py`, VIEWS how many views the body has seen, in words.
"""
import json, os, sys
from datetime import date
from pathlib import Path
import pandas as pd
from safetensors.torch import load_file, save_file
from genderres.networks import tensor_digest

body, figures, views = sys.argv[1:4]
state = {k: v.half().contiguous() if v.is_floating_point() else v for k,v in load_file(body).items()}
table = pd.read_csv(figures).query("body == 'portrait' and set != 'choose_faces'").drop(columns='body')   # no photos it was trained on
meta = dict(
    arch='resnet34', sha256=tensor_digest(state), date=date.today().isoformat(), trained='without gender labels: distilled; ' + views,
    preprocessing=json.dumps(dict(size='trained at 96 to 224 px, mostly 128, the whole photo or a crop squashed to a square', mean=[.485, .456, .406], std=[.229, .224, .225])),
    teachers='EfficientNet-Lite0, ImageNet weights (Apache-2.0); face descriptors of dlib (CC0)',
    photos='official portraits of members of the US Congress (public domain), but for one person in five; portraits of members of earlier Congresses (public domain '
           'or government sources); Open Images V4 training snapshots (CC BY 2.0)',
    licence='Apache-2.0', figures=table.to_json(orient='records'))
out = Path(__file__).parents[1]/'genderres'/'portrait.safetensors'
save_file(state, out, {'format': 'pt', **meta})
os.chmod(out, 0o644)   # safetensors makes it readable for its owner alone
