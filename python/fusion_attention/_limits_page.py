"""`python -m fusion_attention._limits_page` writes docs/strict.md from the table of strict mode.

A test compares it with what stands in the repository.
"""

from __future__ import annotations

from pathlib import Path

from fusion_attention import _core

PAGE = Path(__file__).parents[2] / "docs" / "strict.md"
HEADER = """\
# Strict mode

*Written by `python -m fusion_attention._limits_page`; do not edit.*

This library takes every size that fits memory (ruling 10). The hardware does not. Under strict mode a
call that the documents of its interface do not support is refused before anything is computed:
`RuntimeError` (the cell: `ValueError`) with the argument, what was given, the documented limit and where
it is documented.

| switch | reach |
|---|---|
| `with fusion_attention.strict():` | the block, in this thread or task |
| `fusion_attention.strict(True)`, `strict(False)` | from here on, in this thread or task |
| `FUSION_ATTENTION_STRICT=1` | the process; a choice made in code goes before it |
| `FusionAttentionOptions::strict` (C++) | the call |

The check stands where every front has its call read, in C++: NumPy, torch eager and compiled, C++, and
the layers, which end there too. A compiled graph is checked whenever it runs, and while it is traced if
its sizes are numbers by then. Gradients that autograd computes are checked when they are computed.

`mindspeed` and the `ascendspeed` functions stand on npu_fusion_attention: its rows hold for them as well.
Rows of their own documents are checked first; inside a compiled graph they are not.

Not in the table: what is always refused, strict or not (docs/npu_fusion_attention.md,
docs/prompt_flash_attention.md). `prompt_flash_attention` takes an int for scale_value but here. The cell's
"seq_length >= 64K" is read as what it can reach, as its own example has 4096.
"""
_NAMES = {
    "npu_fusion_attention": "`torch_npu.npu_fusion_attention`, `_v2`, `_v3`, `_grad`, `_grad_v2`, `_grad_v3`",
    "mindspeed": "`mindspeed.ops.fusion_attention_v2`",
    "ascend_flash_attention": "`ascendspeed.te.ops.ascend_flash_attention`",
    "npu_flash_attention": "`ascendspeed.ops.npu_flash_attention`, `_grad`, `FlashAttention`",
    "npu_ring_attention_update": "`npu_ring_attention_update`",
    "npu_incre_flash_attention": "`npu_incre_flash_attention`, MindSpore's `incre_flash_attention`",
    "npu_fused_infer_attention_score": "`torch_npu.npu_fused_infer_attention_score`",
    "npu_fused_infer_attention_score_v2": "`torch_npu.npu_fused_infer_attention_score_v2`",
    "flash_attention_cell": "`flash_attention.nn.layer.flash_attention.FlashAttention`",
    "prompt_flash_attention": "`mindspore.ops.prompt_flash_attention`",
    "npu_prompt_flash_attention": "`torch_npu.npu_prompt_flash_attention`",
}


def page() -> str:
    """The page of the docs: a table per interface."""
    parts = [HEADER]
    rows = _core.documented_limits()
    for interface, title in _NAMES.items():
        parts.append(f"\n## {title}\n\n| argument | limit | where documented |\n|---|---|---|\n")
        for _, interfaces, argument, allowed, source in rows:
            if interface in interfaces:
                parts.append(f"| `{argument}` | {allowed} | {source} |\n")
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
