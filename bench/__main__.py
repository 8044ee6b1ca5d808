"""The matrix of cases beside the machine's roofs and every peer that installs; the method is in README.md."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import fusion_attention

from . import report
from .case import Case
from .environments import ROOT
from .matrix import matrix, quick
from .peers import PEERS, QUICK
from .run import Pace, Run

QUICK_LIMIT = 270  # seconds; what is left of five minutes is for starting, overhead and the picture


def chosen(cases: list[Case], only: str) -> list[Case]:
    """Those whose id is in a comma-separated list; all where it is empty."""
    ids = {case.id for case in cases}
    wanted = {word for word in only.split(",") if word}
    if wanted - ids:
        raise SystemExit(f"--only: got {only}, allowed are {', '.join(sorted(ids))}")
    return [case for case in cases if not wanted or case.id in wanted]


def overhead(build: bool) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "bench.overhead", "--json", *["--built"] * (not build)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--quick", action="store_true", help="the goals at smaller sizes, one thread, 5 minutes"
    )
    size.add_argument("--full", action="store_true", help="the whole matrix, any time; the default")
    parser.add_argument("--only", default="", help="ids of the matrix, as A1,B2")
    parser.add_argument("--peers", default="", help=f"of {', '.join(PEERS)}; all, or the quick run's five")
    parser.add_argument("--seconds", type=float, help="per case and peer; 0.3 in the quick run, else 4")
    parser.add_argument("--limit", type=float, help="seconds after which no case is started")
    parser.add_argument("--out", type=Path, default=Path("out"))
    options = parser.parse_args()

    peers = [word for word in options.peers.split(",") if word] or list(QUICK if options.quick else PEERS)
    unknown = set(peers) - set(PEERS)
    if unknown:
        parser.error(f"--peers: got {', '.join(sorted(unknown))}, allowed are {', '.join(PEERS)}")
    cases = chosen(quick() if options.quick else matrix(), options.only)
    limit = options.limit or (QUICK_LIMIT if options.quick else float("inf"))
    seconds = options.seconds or (0.3 if options.quick else 4.0)
    least = 3 if seconds < 1 else 5
    start = time.monotonic()
    run = Run(cases)
    run.measure(peers, Pace(seconds, least, min(start + limit, 1e18)))

    results: dict[str, Any] = {
        "cpu": run.facts.get("cpu", ""),
        "torch": run.facts.get("torch", ""),
        "version": fusion_attention.__version__,
        "seconds": time.monotonic() - start,
        "peers": run.fates,
        "overhead": overhead(build=not options.quick) if not options.only else [],
        "cells": list(run.cells.values()),
    }
    heading = f"{results['cpu']}; torch {results['torch']}; fusion_attention {results['version']}"
    small = [report.overhead(row) for row in results["overhead"]]
    results["text"] = "\n".join(
        [heading, report.table(results["cells"], peers), *small, report.summary(results)]
    )
    print(results["text"])
    files = report.write(results, options.out)
    try:
        from .picture import draw
    except ImportError:
        print("matplotlib is not installed: no picture")
    else:
        draw(results, options.out / "roofline.png")
        files.append(options.out / "roofline.png")
    print("wrote", *files)
    if any("wrong" in cell for cell in results["cells"]):
        raise SystemExit("an answer of this library is wrong")


if __name__ == "__main__":
    main()
