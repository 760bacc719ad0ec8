"""What `keep_memory` saves: python benchmarks/memory.py

Forward passes of 64 noisy photos, one thread, each row in a process of its own, with glibc's usual `malloc`
and after `keep_memory`. `each` is the number of photos per CPU second, `faults` that of page faults per
photo, `peak` the most memory that the process held, in MB.
"""
import argparse, resource
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from pathlib import Path
import pandas as pd, torch
from fastai.vision.all import resnet34
from genderres.files import keep_memory
from genderres.networks import build_network, lite0

bodies = dict(resnet34=resnet34, lite0=lite0)

def used():
    r = resource.getrusage(resource.RUSAGE_SELF)
    return r.ru_utime + r.ru_stime, r.ru_minflt

@torch.inference_mode()
def run(body, size, precision, kept, n=4):
    "One row"
    torch.set_num_threads(1)
    if kept: keep_memory()
    net = build_network(bodies[body], 2, None).eval().to(memory_format=torch.channels_last)
    x = torch.rand(64, 3, size, size).to(memory_format=torch.channels_last)
    with torch.autocast('cpu', torch.bfloat16, enabled=precision == 'bfloat16'):
        net(x)
        seconds, faults = used()
        for _ in range(n): net(x)
    seconds, faults = used()[0] - seconds, used()[1] - faults
    return dict(body=body, size=size, precision=precision, kept=kept, each=n*len(x)/seconds, faults=faults/n/len(x),
                peak=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024)

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--out', type=Path, default=Path(__file__).parent/'results/memory.csv')
    args, rows = p.parse_args(), []
    for o in product(bodies, (128, 224), ('float32', 'bfloat16'), (False, True)):
        with ProcessPoolExecutor(1, get_context('spawn')) as alone: rows.append(alone.submit(run, *o).result())
        print(rows[-1], flush=True)
    pd.DataFrame(rows).to_csv(args.out, index=False, float_format='%.4g')
