"""The inference operators on NumPy arrays: int8, float16, ml_dtypes.bfloat16 and float32, without torch."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from fusion_attention import _check, _core, _strict
from fusion_attention._elements import ELEMENTS, of_array
from fusion_attention.inference import exact
from fusion_attention.inference.decode import FUSED, FUSED_V2, INCRE, NPU_INCRE
from fusion_attention.inference.define import define
from fusion_attention.inference.table import NPU_PROMPT, PROMPT, Function
from fusion_attention.numpy import _plain

if TYPE_CHECKING:
    from fusion_attention.inference import signatures

_NDArray = np.ndarray[Any, Any]


def _array(array: _NDArray) -> tuple[int, int, tuple[int, ...], tuple[int, ...]]:
    """What the binding takes: address, element, shape, strides in elements. The caller keeps the array."""
    strides = tuple(step // array.itemsize for step in array.strides)
    return array.ctypes.data, of_array(array.dtype), array.shape, strides


_DTYPES = {ELEMENTS["int8"]: np.dtype(np.int8), ELEMENTS["float16"]: np.dtype(np.float16)}


def attend(function: Function, query: Any, key: Any, value: Any, words: dict[str, Any]) -> Any:
    """One call with its words by canonical name, types checked: the output, or a tuple with softmax_lse."""
    asks_lse = words.pop("softmax_lse_flag", False)
    arrays = {name: _plain(x) for name, x in (("query", query), ("key", key), ("value", value))}
    arrays |= {name: _plain(x) for name, x in words.items() if function.rows[name].kind == "tensor"}
    given = {name: _array(x) for name, x in arrays.items()}
    q, k, v = (given.pop(name) for name in ("query", "key", "value"))
    call = _core.InferenceAttention(function.name, q, k, v, words | given, _strict.chosen())
    # An int8 query with scales of its own computes in the dtype of its rope channels.
    floating = arrays.get("query_rope", query).dtype
    out: _NDArray = np.empty(call.output_shape, _DTYPES.get(call.output_element, floating))
    lse = np.empty(call.lse_shape if asks_lse else 0, np.float32)
    call.forward(out.ctypes.data, lse.ctypes.data if asks_lse else 0)
    for note in call.notes():
        warnings.warn(note, stacklevel=4)
    return out if len(function.results) == 1 else (out, lse)


def _public(function: Function) -> Any:
    def implementation(query: Any, key: Any, value: Any, words: dict[str, Any]) -> Any:
        return attend(function, query, key, value, words)

    return define(
        function,
        implementation,
        tensor=np.ndarray,
        tensor_name="NumPy array",
        as_ints=exact.as_ints if function.has_error_table else _check.as_ints,
        module=__name__,
    )


prompt_flash_attention: signatures.PromptFlashAttention[_NDArray] = _public(PROMPT)
npu_prompt_flash_attention: signatures.NpuPromptFlashAttention[_NDArray] = _public(NPU_PROMPT)
incre_flash_attention: signatures.IncreFlashAttention[_NDArray] = _public(INCRE)
npu_incre_flash_attention: signatures.NpuIncreFlashAttention[_NDArray] = _public(NPU_INCRE)
npu_fused_infer_attention_score: signatures.NpuFusedInferAttentionScore[_NDArray] = _public(FUSED)
npu_fused_infer_attention_score_v2: signatures.NpuFusedInferAttentionScoreV2[_NDArray] = _public(FUSED_V2)
