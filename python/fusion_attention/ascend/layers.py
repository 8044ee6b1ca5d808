"""The table of layers: a layer is added by one line."""

from __future__ import annotations

import importlib
from typing import NamedTuple

from fusion_attention.ascend.patches import Patches


class Layer(NamedTuple):
    """What `enable` does for one name. Actions are "module:function" here; each takes a Patches."""

    packages: tuple[str, ...]  # top-level packages, served from names/
    torch: bool = True  # whether they import torch
    distribution: str = ""  # also found by importlib.metadata, in torch's version
    start: str = ""  # what else has to happen
    changes: str = ""  # the installed package that it changes, and needs
    beside_genuine: str = ""  # what to do beside a genuine first package; nothing: refuse

    @staticmethod
    def run(action: str, patches: Patches) -> None:
        module, _, function = action.partition(":")
        getattr(importlib.import_module(f"fusion_attention.ascend.{module}"), function)(patches)


LAYERS = {
    "torch_npu": Layer(("torch_npu",), distribution="torch-npu", start="operators:start"),
    "mindspeed": Layer(("mindspeed", "npu_fusion_attention"), beside_genuine="mindspeed_ops:load_instead"),
    "ascendspeed": Layer(("ascendspeed",)),
    "flash_attention": Layer(("flash_attention", "accspeed", "acctransformer"), torch=False),
    "mindspore": Layer((), torch=False, start="mindspore_ops:replace", changes="mindspore"),
}
