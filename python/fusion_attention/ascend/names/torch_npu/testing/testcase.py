"""TestCase with the comparison of op-plugin's tests."""

from __future__ import annotations

import unittest
from typing import Any

import numpy as np
import torch


class TestCase(unittest.TestCase):
    """`assertRtolEqual(a, b)`: |a - b| <= limit * max(|a|, |b|, 1); prec16 is the limit of 16-bit results."""

    def assertRtolEqual(self, x: Any, y: Any, prec: float = 1e-4, prec16: float = 1e-3) -> None:
        a, limit_a = _array(x, prec, prec16)
        b, limit_b = _array(y, prec, prec16)
        if a.shape != b.shape:
            self.fail(f"shapes differ: {a.shape} and {b.shape}")
        if not np.array_equal(np.isnan(a), np.isnan(b)):
            self.fail("NaN in one result only")
        limit = max(limit_a, limit_b)
        with np.errstate(invalid="ignore"):
            error = np.where(a == b, 0.0, np.abs(a - b)) / np.maximum(np.maximum(np.abs(a), np.abs(b)), 1.0)
        worst = float(np.nanmax(error, initial=0.0))
        if worst > limit:
            self.fail(f"relative error {worst:.3g} is above {limit:.3g}")


def run_tests() -> None:
    unittest.main()


def _array(value: Any, prec: float, prec16: float) -> tuple[np.ndarray, float]:
    if isinstance(value, torch.Tensor):
        half = value.dtype in (torch.float16, torch.bfloat16)
        return value.detach().cpu().double().numpy(), prec16 if half else prec
    array = np.asarray(value)
    return array.astype(np.float64), prec16 if array.dtype == np.float16 else prec
