"""`python -m fusion_attention run script.py args…`: a script written for the Ascend NPU, unchanged, on this CPU."""

from __future__ import annotations

import argparse
import os
import runpy
import sys
from pathlib import Path

from fusion_attention.ascend.switch import ENVIRONMENT, LAYERS, enable


def main(arguments: list[str]) -> None:
    """Runs the script as `python script.py args…` would: same argv, same __main__, same sys.path[0]."""
    options = _parser().parse_args(arguments)
    target = options.script
    if target == "-m" or (options.module is None and target is None):
        _parser().error("got no script, allowed is a path or -m module")
    # Processes that the script starts (torchrun, spawned workers) make the same choice through their environment.
    os.environ[ENVIRONMENT] = "names" if options.names else "device"
    enable(*options.layers, device=not options.names)
    if options.module is not None:
        sys.argv = [options.module, *([target] if target is not None else []), *options.arguments]
        sys.path[0] = os.getcwd()
        runpy.run_module(options.module, run_name="__main__", alter_sys=True)
        return
    sys.argv = [target, *options.arguments]
    sys.path[0] = str(Path(target).resolve().parent)
    runpy.run_path(target, run_name="__main__")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m fusion_attention run", description=__doc__)
    parser.add_argument("--names", action="store_true", help='serve the names only; "npu" stays an unknown device')
    parser.add_argument(
        "--layers",
        type=lambda text: text.split(","),
        default=list(LAYERS),
        help=f"comma-separated layers to enable, of {', '.join(LAYERS)}; all by default",
    )
    parser.add_argument("-m", dest="module", help="run a module instead of a script")
    parser.add_argument("script", nargs="?")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    return parser
