#!/usr/bin/env bash
# Ways to make the body, compared on a small budget: 16,000 views of 64 pixels each, from random weights.
#
#   bash pretrain/routes.sh DATA TEACHER FACES OUT [ROUTE ...]
#
# DATA holds congress/, unlabelled/ and wild/; TEACHER is efficientnet-lite0-57934424.pth; FACES is faces.py's file;
# OUT is a folder for bodies and logs. Goes on where it was stopped. Adds to benchmarks/results/routes.csv (probes) and
# routes_curves.csv (losses and seconds on the way).
set -euo pipefail
data=$1 teacher=$2 faces=$3 out=$4; shift 4
here=$(dirname "$0"); table=$here/../../benchmarks/results/routes.csv curves=$here/../../benchmarks/results/routes_curves.csv

declare -A routes=(                 # what each adds to distil.py's plain recipe
  [pool]='--parts pool'                                   # the teacher's pooled features alone
  [map]='--parts map,pool'                                # and its last feature map
  [hints]='--parts hint8,hint16,map,pool'                 # and maps at strides 8 and 16
  [face]="--parts hint8,hint16,map,pool,face --faces $faces"   # and the face's descriptor
  [nomix]='--parts map,pool --mix 0'                      # no mixing of photos
  [same]='--parts map,pool,same'                          # and two views of a photo alike (VICReg)
)
[ $# -gt 0 ] || set -- pool map hints face nomix same

probe() { grep -q "^$1," "$table" 2> /dev/null || python "$here/probe.py" "$2" --name "$1" --data "$data" --faces "$faces" --teacher "$teacher" \
  --out "$table" --size 64 --sets choose_faces,congress,wild_whole --fp32; }
probe random random
probe lite0 lite0
for route in "$@"; do
  # shellcheck disable=SC2086
  python "$here/distil.py" --data "$data" --teacher "$teacher" --out "$out/$route" --size 64 --views 16000 --plain --close 0 --every 25 --fp32 ${routes[$route]}
  probe "$route" "$out/$route/body.safetensors"
done
python - "$out" "$curves" << 'END'
import sys
from pathlib import Path
import pandas as pd
logs = {o.parent.name: pd.read_json(o, lines=True) for o in sorted(Path(sys.argv[1]).glob('*/log.jsonl'))}
pd.concat(logs, names=['route']).reset_index('route').to_csv(sys.argv[2], index=False)
END
