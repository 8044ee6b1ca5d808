"""Our operators where MindSpore keeps its own, whose kernels no CPU has."""

from __future__ import annotations

import importlib

from fusion_attention.ascend.patches import Patches

# Each function stands in all of them; a client may import it from any.
HOMES = (
    "mindspore.ops",
    "mindspore.ops.function",
    "mindspore.ops.function.nn_func",
    "mindspore.ops.functional",
)


def replace(patches: Patches) -> None:
    """Puts fusion_attention.mindspore's functions into the four modules, until the patches are undone."""
    homes = [importlib.import_module(home) for home in HOMES]
    ours = importlib.import_module("fusion_attention.mindspore")
    for name in ours.__all__:
        for home in homes:
            patches.set(home, name, getattr(ours, name))
