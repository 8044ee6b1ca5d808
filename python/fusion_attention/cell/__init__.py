"""The acctransformer cell `FlashAttention` (document: acctransformer/train/flash_attention/README.md).

    from fusion_attention.cell import FlashAttention
    attention = FlashAttention(head_dim=128, prev_block_num=7, next_block_num=0)
    out = attention(query, key, value, attention_mask)

Takes MindSpore tensors, torch tensors and NumPy arrays. Once MindSpore is loaded `FlashAttention` is a
`mindspore.nn.Cell`, for PyNative and Graph mode; before that it is a plain class with the same arguments.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusion_attention.cell.layer import FlashAttention

__all__ = ["FlashAttention"]


def __getattr__(name: str) -> Any:
    if name != "FlashAttention":
        raise AttributeError(f"module 'fusion_attention.cell' has no attribute {name!r}")
    if "mindspore" in sys.modules:
        from fusion_attention.cell.mindspore import FlashAttention as Cell

        return Cell
    from fusion_attention.cell.layer import FlashAttention

    return FlashAttention
