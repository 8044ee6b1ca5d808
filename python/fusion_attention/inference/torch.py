"""The inference operators on torch tensors: eager and torch.compile(fullgraph=True). They have no gradient.

Each public function stands on an operator of its own, torch.ops.fusion_attention.<name>. Lengths reach it as
tensors, so that a compiled graph does not depend on their values.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fusion_attention import _core, _strict
from fusion_attention._elements import ELEMENTS
from fusion_attention._table import REQUIRED
from fusion_attention.inference import exact
from fusion_attention.inference.decode import FUSED, FUSED_V2, INCRE, NPU_INCRE
from fusion_attention.inference.define import define, result_shapes, torch_schema
from fusion_attention.inference.table import NPU_PROMPT, PROMPT, Function
from fusion_attention.torch import _array, _as_lengths, _ends, _integers

if TYPE_CHECKING:
    from fusion_attention.inference import signatures

_library: Any = torch.library.Library("fusion_attention", "FRAGMENT")  # type: ignore[no-untyped-call]
_DTYPES = {ELEMENTS[name]: getattr(torch, name) for name in ("int8", "float16", "bfloat16", "float32")}
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


def _kernel(function: Function) -> Callable[..., Any]:
    # torch leaves out what is at its default; C++ has defaults of its own.
    defaults = {
        row.name: row.default
        for _, row, _ in function.parameters()
        if row.kind != "unused" and row.default not in (None, REQUIRED)
    }

    def attend(query: Tensor, key: Tensor, value: Tensor, **given: Any) -> Any:
        words = defaults | given
        asks_lse = words.pop("softmax_lse_flag", False)
        q, k, v = _array("query", query), _array("key", key), _array("value", value)
        call = _core.InferenceAttention(function.name, q, k, v, _given(words), _strict.chosen())
        out = torch.empty(*call.output_shape, dtype=_DTYPES[call.output_element])
        lse = torch.empty(call.lse_shape if asks_lse else (0,))
        call.forward(out.data_ptr(), lse.data_ptr() if asks_lse else 0)
        for note in call.notes():
            warnings.warn(note, stacklevel=2)
        return out if len(function.results) == 1 else (out, lse)

    return attend


def _fake(function: Function) -> Callable[..., Any]:
    defaults = {"num_heads": 1, "num_key_value_heads": 0, "input_layout": "BSH"}

    def attend(query: Tensor, key: Tensor, value: Tensor, **words: Any) -> Any:
        dtype = torch.float16 if query.dtype == torch.int8 else query.dtype
        if words.get("dequant_scale_query") is not None:
            dtype = words["query_rope"].dtype
        if words.get("quant_scale2") is not None:
            dtype = torch.int8
        packed_by = 8 if value.dtype == torch.int32 else 1
        out, lse = result_shapes(query.shape, value.shape, defaults | words, packed_by)
        result = query.new_empty(out, dtype=dtype)
        if len(function.results) == 1:
            return result
        return result, query.new_empty(lse if words.get("softmax_lse_flag") else 0, dtype=torch.float32)

    return attend


def _operator(function: Function) -> Any:
    tags = (torch.Tag.pt2_compliant_tag, torch.Tag.flexible_layout)
    _library.define(function.name + torch_schema(function), tags=tags)
    _library.impl(function.name, _kernel(function), "CompositeExplicitAutograd")
    torch.library.register_fake(f"fusion_attention::{function.name}", _fake(function), lib=_library)
    return getattr(torch.ops.fusion_attention, function.name).default


def _exact_lengths(name: str, value: Any) -> Any:
    if isinstance(value, Tensor):
        if value.dim() != 1:
            raise ValueError(f"{name}: got a tensor of rank {value.dim()}, allowed is rank 1")
        if value.dtype.is_floating_point or value.dtype is torch.bool:
            raise TypeError(f"{name}: got a tensor of {value.dtype}, allowed is an integer tensor")
    return value if isinstance(value, Tensor) else exact.as_ints(name, value)


def _public(function: Function) -> Any:
    operator = _operator(function)

    def implementation(query: Tensor, key: Tensor, value: Tensor, words: dict[str, Any]) -> Any:
        for name in _LISTS:
            if name in words:
                words[name] = _ends(words[name])
        prefix = words.get("actual_shared_prefix_len")
        if isinstance(prefix, Tensor):
            words["actual_shared_prefix_len"] = _integers("actual_shared_prefix_len", prefix)
        return operator(query, key, value, **words)

    return define(
        function,
        implementation,
        tensor=Tensor,
        tensor_name="torch tensor",
        as_ints=_exact_lengths if function.has_error_table else _as_lengths,
        module=__name__,
    )


prompt_flash_attention: signatures.PromptFlashAttention[Tensor] = _public(PROMPT)
npu_prompt_flash_attention: signatures.NpuPromptFlashAttention[Tensor] = _public(NPU_PROMPT)
incre_flash_attention: signatures.IncreFlashAttention[Tensor] = _public(INCRE)
npu_incre_flash_attention: signatures.NpuIncreFlashAttention[Tensor] = _public(NPU_INCRE)
npu_fused_infer_attention_score: signatures.NpuFusedInferAttentionScore[Tensor] = _public(FUSED)
npu_fused_infer_attention_score_v2: signatures.NpuFusedInferAttentionScoreV2[Tensor] = _public(FUSED_V2)
