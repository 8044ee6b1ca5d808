"""The document's own example, as it stands, by the command that runs such scripts."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import fusion_attention
import numpy as np

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/flash_attention_cell.py"


def test_prints_what_the_document_prints():
    command = [sys.executable, "-m", "fusion_attention", "run", "--names", "--layers", "flash_attention"]
    done = subprocess.run([*command, str(EXAMPLE)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("[[[0. 1. 1. ... 1. 1. 1.]\n") and "(2, 16, 4096, 128)" in done.stdout


def test_its_values():
    """All scores and values are 1: a row's output is the share of its keys that dropout keeps, over 0.9."""
    fusion_attention.enable("flash_attention")
    try:
        out = runpy.run_path(str(EXAMPLE))["output"].asnumpy().astype(np.float64)
    finally:
        fusion_attention.disable()
    row = np.arange(4096)
    seen = row - np.maximum(row // 128 - 7, 0) * 128 + 1
    assert (out == out[..., :1]).all()
    kept = out[..., 0] * 0.9 * seen
    few = seen <= 200  # where fp16 tells one key more from one less
    assert np.abs(kept - np.round(kept))[..., few].max() < 0.2
    total, mean = seen.sum() * 32, 0.9
    assert abs(kept.sum() / total - mean) < 4 * (mean * 0.1 / total) ** 0.5 + 1e-4
