"""The largest documented sizes run, in memory of the operands' own size: peaks of a fresh process."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Prints the peak of resident memory of the forward and of the gradients, beyond what there was before and
# what they return, in MiB. argv: threads, B, S, window. 5 in clear_refs starts the peak anew.
SCRIPT = """
import os, sys
threads, batches, length, window = map(int, sys.argv[1:])
os.environ["FUSION_ATTENTION_NUM_THREADS"] = str(threads)
import numpy as np
import fusion_attention.numpy as front

def memory(name):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024

def peak(run):
    open("/proc/self/clear_refs", "w").write("5")
    before = memory("VmRSS")
    results = run()
    returned = sum(x.nbytes for x in results if isinstance(x, np.ndarray)) / 2**20
    print(memory("VmHWM") - before - returned)
    return results

x = np.random.default_rng(0).standard_normal((batches, 1, length, 64), np.float32).astype(np.float16)
mask = np.triu(np.ones((2048, 2048), bool), 1)
options = {"atten_mask": mask, "sparse_mode": 4, "pre_tockens": window, "next_tockens": 0}
front.npu_fusion_attention(x[:1, :, :64], x[:1, :, :64], x[:1, :, :64], 1, "BNSD")  # loads what is lazy
out, top, total, *_ = peak(lambda: front.npu_fusion_attention(x, x, x, 1, "BNSD", scale=0.1, **options))
options |= {"attention_in": out, "softmax_max": top, "softmax_sum": total, "scale_value": 0.1}
gradients = peak(lambda: front.npu_fusion_attention_grad(x, x, x, x, 1, "BNSD", **options))
assert all(np.isfinite(g.reshape(-1, 64)[::4096].astype(np.float32)).all() for g in (out, *gradients[:3]))
"""


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("batches", "length", "window"), [(1, 512 * 1024, 1024), (2048, 256, 256)], ids=["S = 512K", "B = 2048"]
)
def test_largest_sizes(threads, batches, length, window):
    if not sys.platform.startswith("linux"):
        pytest.skip("peaks are read from /proc")
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, *map(str, (threads, batches, length, window))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    forward, backward = map(float, done.stdout.split())
    operand = batches * length * 64 * 2 / 2**20
    sizes = f"B = {batches}, S = {length}, D = 64, {threads} threads, operands of {operand:.0f} MiB"
    print(f"\nnote: {sizes}: forward {forward:.0f} MiB, gradients {backward:.0f} MiB more")
    # dK and dV of all keys in float32 are four operands; shares of them, and what a thread works on.
    assert forward < 32 and backward < 6 * operand + 64
