"""The largest face of each photo in congress and wild: python pretrain/faces.py DATA FACES.csv

Needs the extra `faces`. Writes file (relative to DATA), x0, y0, x1, y1 (pixels of the upright photo) and
score, a row for each photo in which a face is found.
"""
import sys
from pathlib import Path
from genderres.faces import find_faces

def main(root, out):
    files = sorted(o for name in ('congress', 'wild') for o in (Path(root)/name).rglob('*.jpg'))
    found = find_faces(files).query("problem == ''").drop_duplicates('file')   # the largest comes first
    found = found.assign(file=[Path(o).relative_to(root).as_posix() for o in found.file])
    found[['file', 'x0', 'y0', 'x1', 'y1', 'score']].round(1).to_csv(out, index=False)
    print(f'{len(found)} of {len(files)} photos have a face')

if __name__ == '__main__': main(*sys.argv[1:])
