"""Forward and backward beside the machine's roof and torch's flash kernel; see README.md for the method."""

from __future__ import annotations

import argparse
import platform
import re
from pathlib import Path

import fusion_attention
import torch
from fusion_attention import machine

from .cases import cells
from .contenders import Cell
from .measure import interleave
from .report import HEADER, row, write


def roof_for(dtype: str) -> str:
    """The fastest measured roof loop for this dtype's products: what a perfect kernel could reach."""
    candidates = ["fma"] if dtype != "bfloat16" else ["fma", "vdpbf16ps", "amx"]
    rates = {name: machine.measure_roof(name, 0.02) for name in machine.roofs() if name in candidates}
    return max(rates, key=rates.get)


def measure(case, threads: int, seconds: float) -> dict:
    cell, roof = Cell(case), roof_for(case.dtype)
    rates: list[float] = []
    functions = {"roof": lambda: rates.append(machine.measure_roof(roof, 0.005)), **cell.contenders()}
    samples = interleave(functions, seconds)
    # The upper quartile: a disturbed roof sample would flatter everybody.
    peak = sorted(rates)[3 * len(rates) // 4] * threads
    result = {**case.describe(), "threads": threads, "roof": {"name": roof, "flops_per_second": peak}}
    for name in ("ours", "torch"):
        s = samples[name]
        result[name] = {
            "ms": 1e3 * s.median,
            "spread": s.spread,
            "samples": len(s.seconds),
            "dropped": s.dropped,
            "of_roof": case.flops / s.median / peak,
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the cells of the everyday gate only")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--seconds", type=float, default=4.0, help="per cell")
    parser.add_argument("--only", default="", help="a regular expression on the cell's name")
    parser.add_argument("--out", type=Path, default=Path("out"))
    options = parser.parse_args()

    info = machine.describe()
    print(f"{info['cpu']}; torch {torch.__version__}; Python {platform.python_version()}\n{HEADER}")
    results = {
        "cpu": info["cpu"],
        "torch": torch.__version__,
        "version": fusion_attention.__version__,
        "cells": [],
    }
    for threads in options.threads:
        torch.set_num_threads(threads)
        fusion_attention.set_thread_count(threads)
        for case in cells(options.quick):
            if re.search(options.only, case.name):
                results["cells"].append(measure(case, threads, options.seconds))
                print(row(results["cells"][-1]), flush=True)
    write(results, options.out)


if __name__ == "__main__":
    main()
