"""Strict mode of the entry points that hand their words on to npu_fusion_attention."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from fusion_attention import _strict
from fusion_attention.torch import _array

_WORDS = ("atten_mask", "pse", "pse_type", "sparse_mode", "prefix", "actual_seq_qlen", "actual_seq_kvlen")
_LISTS = ("prefix", "actual_seq_qlen", "actual_seq_kvlen")


def refuse_undocumented(
    interface: str,
    query: Any,
    key: Any,
    value: Any,
    head_num: Any,
    input_layout: Any,
    *,
    backward: bool = False,
    **words: Any,
) -> None:
    """One line of an entry point: under strict mode, the limits of its own document.

        refuse_undocumented("mindspeed", query, key, value, head_num, input_layout, **words)

    Args:
        interface: mindspeed, ascend_flash_attention, npu_flash_attention or npu_ring_attention_update. Of the
            last, query, key and value are prev_attn_out; SBH or TND.
        words: as they were given, by the names of npu_fusion_attention_v2; those without limits do nothing.

    Raises:
        RuntimeError: the argument, what was given, the documented limit. Arguments of a wrong type are left
            to the operator, as is a graph that is being traced.
    """
    if torch.compiler.is_compiling() or not _strict.is_on():
        return
    given = {name: word for name, word in words.items() if name in _WORDS}
    operands = {"query": query, "key": key, "value": value}
    if not all(isinstance(tensor, Tensor) for tensor in operands.values()):
        return
    q, k, v = (_array(name, tensor) for name, tensor in operands.items())
    for name, word in given.items():
        if isinstance(word, Tensor):
            given[name] = word.tolist() if name in _LISTS else _array(name, word)
    with suppress(TypeError):
        _strict.refuse_undocumented(interface, q, k, v, head_num, input_layout, backward=backward, **given)
