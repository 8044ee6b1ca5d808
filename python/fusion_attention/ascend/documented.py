"""Strict mode of the entry points that hand their words on to npu_fusion_attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fusion_attention import _strict
from fusion_attention.torch import _array


def refuse_undocumented(
    interface: str, query: Tensor, key: Tensor, value: Tensor, head_num: int, input_layout: str, **words: Any
) -> None:
    """One line at the top of an entry point: under strict mode, the limits of its own document.

        refuse_undocumented("mindspeed", query, key, value, head_num, input_layout, pse=pse, atten_mask=mask)

    Args:
        interface: mindspeed, ascend_flash_attention, npu_flash_attention or npu_ring_attention_update. Of the
            last, query, key and value are prev_attn_out; SBH or TND.
        words: those of `fusion_attention._strict.refuse_undocumented`, as they were given.

    Raises:
        RuntimeError: the argument, what was given, the documented limit. Operands that are no tensors are
            left to the operator, as is a graph that is being traced.
    """
    if torch.compiler.is_compiling() or not _strict.is_on():
        return
    operands = {"query": query, "key": key, "value": value}
    if not all(isinstance(tensor, Tensor) for tensor in operands.values()):
        return
    q, k, v = (_array(name, tensor) for name, tensor in operands.items())
    given: dict[str, Any] = {
        name: _array(name, word) if isinstance(word, Tensor) else word for name, word in words.items()
    }
    _strict.refuse_undocumented(interface, q, k, v, head_num, input_layout, **given)
