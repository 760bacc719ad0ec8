#!/usr/bin/env bash
# Ways to make the body, compared on a small budget: 16,000 views of 64 pixels each, from random weights.
#
#   bash nbs/pretrain/routes.sh DATA TEACHER FACES OUT [ROUTE ...]
#
# DATA holds congress/, unlabelled/ and wild/; TEACHER is efficientnet-lite0-57934424.pth; FACES is faces.py's file (of
# congress and wild at least); OUT is a folder for bodies and logs. Goes on where it was stopped. Adds to benchmarks/routes.csv.
set -euo pipefail
data=$1 teacher=$2 faces=$3 out=$4; shift 4
here=$(dirname "$0"); table=$here/../../benchmarks/routes.csv

declare -A routes=(                 # what each adds to distil.py's plain recipe
  [pool]='--parts pool'                                   # the teacher's pooled features alone
  [map]='--parts map,pool'                                # and its last feature map
  [hints]='--parts hint8,hint16,map,pool'                 # and maps at strides 8 and 16
  [nomix]='--parts map,pool --mix 0'                      # no mixing of photos
  [same]='--parts map,pool,same'                          # and two views of a photo alike (VICReg)
)
[ $# -gt 0 ] || set -- pool map hints nomix same

probe() { grep -q "^$1," "$table" 2> /dev/null || python "$here/probe.py" "$2" --name "$1" --data "$data" --faces "$faces" --teacher "$teacher" \
  --out "$table" --size 64 --sets choose_faces,congress,wild_whole --fp32; }
probe random random
probe lite0 lite0
for route in "$@"; do
  # shellcheck disable=SC2086
  python "$here/distil.py" --data "$data" --teacher "$teacher" --out "$out/$route" --size 64 --views 16000 --plain --close 0 --every 25 --fp32 ${routes[$route]}
  probe "$route" "$out/$route/body.safetensors"
done
