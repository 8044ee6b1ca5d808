"""The claimed sizes of prompt_flash_attention: time, and memory that does not grow with rows or batches.

Every day a share of the longest sequence; FUSION_ATTENTION_PROMPT_ROWS=20971520 is all of it (2.7 GB).
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

ROWS = int(os.environ.get("FUSION_ATTENTION_PROMPT_ROWS", str(2**20)))
DEPTH, PRE = 16, 64

# Prints seconds and the peak of resident memory beyond what there was before and the output, in MiB.
# argv: batches, rows, whether lengths are given. 5 in clear_refs starts the peak anew.
SCRIPT = """
import os, sys, time
batches, rows, has_lengths, depth, pre = map(int, sys.argv[1:])
os.environ["FUSION_ATTENTION_NUM_THREADS"] = "2"
import numpy as np
import fusion_attention.inference.numpy as front

def memory(name):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024

rng = np.random.default_rng(0)
def operand():
    # A prime number of random rows repeats: fast, and at no distance that a tile or a batch entry has.
    return np.resize(rng.standard_normal((65521, depth)).astype(np.float16), (batches, 1, rows, depth))

query, key, value = operand(), operand(), operand()
mask = np.zeros((2048, 2048), bool)
lengths = rng.integers(0, rows + 1, batches) if has_lengths else np.full(batches, rows)
words = {"num_heads": 1, "scale_value": 0.25, "input_layout": "BNSD", "sparse_mode": 4, "pre_tokens": pre,
         "inner_precise": 0}
small = [x[:1, :, :64] for x in (query, key, value)]
front.prompt_flash_attention(*small, mask, **words)  # loads what is lazy
if has_lengths:
    words |= {"actual_seq_lengths_kv": lengths}

open("/proc/self/clear_refs", "w").write("5")
before, start = memory("VmRSS"), time.perf_counter()
out = front.prompt_flash_attention(query, key, value, mask, **words)
print(time.perf_counter() - start, memory("VmHWM") - before - out.nbytes / 2**20)

def row(b, i):
    # Mode 4 is anchored bottom right: row i stands at key i + Lk - S and sees pre keys before it.
    last = i + lengths[b] - rows
    seen = slice(max(0, last - pre), max(0, last + 1))
    q, k, v = (x[b, 0].astype(np.float64) for x in (query[:, :, i], key[:, :, seen], value[:, :, seen]))
    p = np.exp(0.25 * k @ q)
    return p @ v / max(p.sum(), 1e-300)

ends = [(0, 0), (0, 1), (0, rows - 1), (batches - 1, 0), (batches - 1, rows - 1)]
drawn = zip(rng.integers(0, batches, 2000), rng.integers(0, rows, 2000))
apart = max(np.abs(out[b, 0, i] - row(b, i)).max() for b, i in [*ends, *drawn])
assert apart < 2e-3, apart  # halves of numbers up to 4
"""


@pytest.mark.parametrize(
    ("batches", "rows", "has_lengths"),
    [(1, ROWS, False), (65536, 4, False), (65536, 4, True)],
    ids=["rows", "batches", "batches with lengths"],
)
def test_claimed_sizes(batches, rows, has_lengths):
    if not sys.platform.startswith("linux"):
        pytest.skip("peaks are read from /proc")
    arguments = [batches, rows, int(has_lengths), DEPTH, PRE]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, *map(str, arguments)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    seconds, peak = map(float, done.stdout.split())
    operands = 4 * batches * rows * DEPTH * 2 / 2**20
    sizes = f"B = {batches}, S = {rows}, D = {DEPTH}, Lk {'drawn' if has_lengths else 'S'}"
    print(f"\nnote: {sizes}, {operands:.0f} MiB of operands: {seconds:.2f} s, {peak:.1f} MiB beyond them")
    # By batch entry a description, a range, a task and its length in Python, 19 to 36 MiB for 65,536 as the
    # allocator has it; tasks of hundreds of rows, no 16 bytes for each 32.
    assert peak < 1 + (batches * 768 + rows / 2) / 2**20
