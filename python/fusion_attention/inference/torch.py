"""The inference operators on torch tensors: eager and torch.compile(fullgraph=True). They have no gradient.

Each public function stands on an operator of its own, torch.ops.fusion_attention.<name>. Lengths reach it as
tensors, so that a compiled graph does not depend on their values.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fusion_attention import _core, _strict
from fusion_attention._elements import ELEMENTS
from fusion_attention.inference import exact
from fusion_attention.inference.define import define, output_shape, torch_schema
from fusion_attention.inference.table import NPU_PROMPT, PROMPT, Function
from fusion_attention.torch import _array, _as_lengths, _ends, _integers

_library: Any = torch.library.Library("fusion_attention", "FRAGMENT")  # type: ignore[no-untyped-call]
_DTYPES = {ELEMENTS["int8"]: torch.int8, ELEMENTS["float16"]: torch.float16}
_LISTS = ("actual_seq_lengths", "actual_seq_lengths_kv")


def _given(words: dict[str, Any], array: Callable[[str, Tensor | None], Any] = _array) -> dict[str, Any]:
    """As the binding takes them."""
    return {
        name: _integers(name, word)
        if name in _LISTS
        else array(name, word)
        if isinstance(word, Tensor)
        else word
        for name, word in words.items()
        if word is not None
    }


def _kernel(function: Function) -> Callable[..., Tensor]:
    def attend(query: Tensor, key: Tensor, value: Tensor, **words: Any) -> Tensor:
        q, k, v = _array("query", query), _array("key", key), _array("value", value)
        call = _core.InferenceAttention(function.interface, q, k, v, _given(words), _strict.chosen())
        out = torch.empty(*call.output_shape, dtype=_DTYPES.get(call.output_element, query.dtype))
        call.forward(out.data_ptr(), 0)
        for note in call.notes():
            warnings.warn(note, stacklevel=2)
        return out

    return attend


def _fake(query: Tensor, key: Tensor, value: Tensor, **words: Any) -> Tensor:
    dtype = torch.float16 if query.dtype == torch.int8 else query.dtype
    if words.get("quant_scale2") is not None:
        dtype = torch.int8
    defaults = {"num_heads": 1, "num_key_value_heads": 0, "input_layout": "BSH"}
    return query.new_empty(output_shape(query.shape, value.shape, defaults | words), dtype=dtype)


def _operator(function: Function) -> Any:
    tags = (torch.Tag.pt2_compliant_tag, torch.Tag.flexible_layout)
    _library.define(function.name + torch_schema(function), tags=tags)
    _library.impl(function.name, _kernel(function), "CompositeExplicitAutograd")
    torch.library.register_fake(f"fusion_attention::{function.name}", _fake, lib=_library)
    return getattr(torch.ops.fusion_attention, function.name).default


def _exact_lengths(name: str, value: Any) -> Any:
    if isinstance(value, Tensor) and value.dim() != 1:
        raise ValueError(f"{name}: got a tensor of rank {value.dim()}, allowed is rank 1")
    return value if isinstance(value, Tensor) else exact.as_ints(name, value)


def _public(function: Function) -> Callable[..., Tensor]:
    operator = _operator(function)

    def implementation(query: Tensor, key: Tensor, value: Tensor, words: dict[str, Any]) -> Tensor:
        for name in _LISTS:
            if name in words:
                words[name] = _ends(words[name])
        out: Tensor = operator(query, key, value, **words)
        return out

    made: Callable[..., Tensor] = define(
        function,
        implementation,
        tensor=Tensor,
        tensor_name="torch tensor",
        as_ints=_exact_lengths if function.mindspore else _as_lengths,
        module=__name__,
    )
    return made


prompt_flash_attention = _public(PROMPT)
npu_prompt_flash_attention = _public(NPU_PROMPT)
