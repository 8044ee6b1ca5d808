"""`python -m fusion_attention run script.py args…`: a script for the Ascend NPU, unchanged, on this CPU."""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

from fusion_attention.ascend.layers import LAYERS
from fusion_attention.ascend.switch import ENVIRONMENT, enable

SERVED = [name for name, layer in LAYERS.items() if not layer.changes]  # on any machine

USAGE = f"""usage: python -m fusion_attention run [--names] [--layers A,B] script.py args...
       python -m fusion_attention run [--names] [--layers A,B] -m module args...

Runs a script written for the Ascend NPU, unchanged: "npu" means the CPU.
  --names       serve the module names only; "npu" stays an unknown device
  --layers A,B  the layers to enable, of {", ".join(LAYERS)}; {", ".join(SERVED)} by default"""


def main(arguments: list[str]) -> None:
    """Runs the script as `python script.py args…` would: same argv, same __main__, same sys.path[0]."""
    names_only, layers, is_module, command = _parse(arguments)
    os.environ.pop(ENVIRONMENT, None)  # the command line decides, not an older choice
    enable(*layers, device=not names_only)
    # Processes that the script starts (torchrun, spawned workers) make the same choice.
    os.environ[ENVIRONMENT] = f"{'names' if names_only else 'device'}:{','.join(layers)}"
    sys.argv = command
    _set_first_path(os.getcwd() if is_module else str(Path(command[0]).resolve().parent))
    if is_module:
        runpy.run_module(command[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(command[0], run_name="__main__")


def _parse(arguments: list[str]) -> tuple[bool, list[str], bool, list[str]]:
    """(names only, layers, whether it is a module, the command); options end where the command begins."""
    names_only, layers, rest = False, SERVED, list(arguments)
    while rest and rest[0] in ("--names", "--layers"):
        if rest.pop(0) == "--names":
            names_only = True
        elif rest:
            layers = rest.pop(0).split(",")
    is_module = rest[:1] == ["-m"]
    command = rest[1:] if is_module else rest
    if not command or command[0].startswith("-"):
        raise SystemExit(USAGE)
    return names_only, layers, is_module, command


def _set_first_path(folder: str) -> None:
    """`python -m` put the working folder there; python -P puts nothing."""
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = folder
