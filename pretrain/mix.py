"""Between two bodies, one of which was trained on from the other: python pretrain/mix.py BEFORE AFTER SHARE OUT

The weights are (1-SHARE) BEFORE + SHARE AFTER: often better on what BEFORE was good at, and nearly as good as AFTER on the new (Wortsman et al. 2022).
"""
import sys
from safetensors.torch import load_file, save_file

before, after, share, out = load_file(sys.argv[1]), load_file(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
save_file({k: v.float().lerp(after[k].float(), share).half().contiguous() if v.is_floating_point() else after[k] for k,v in before.items()}, out)
