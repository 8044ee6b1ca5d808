"""`torch.ops.npu.*`: the schemas of torch_npu 2.13, each a composite of the library's own operators.

Composite: shapes under fake tensors, gradients and autocast come from the operators below, and there is one
implementation of everything.
"""

from __future__ import annotations

import sys
from typing import Any

import torch

from fusion_attention.ascend import elementwise, fused_attention_score, ring
from fusion_attention.ascend.patches import Patches
from fusion_attention.inference.decode import FUSED, FUSED_V2, NPU_INCRE
from fusion_attention.inference.define import caller_schema

_QKV = "Tensor query, Tensor key, Tensor value"
_MASKS = "Tensor? pse=None, Tensor? padding_mask=None, Tensor? atten_mask=None"
_SAVED = (
    "Tensor? softmax_max=None, Tensor? softmax_sum=None, Tensor? softmax_in=None, Tensor? attention_in=None"
)
_LENGTHS = "int[]? prefix=None, int[]? actual_seq_qlen=None, int[]? actual_seq_kvlen=None"
_LENGTH_TENSORS = "SymInt[]? prefix=None, Tensor? actual_seq_qlen=None, Tensor? actual_seq_kvlen=None"
_MODE = "int sparse_mode=0, bool gen_mask_parallel=True, bool sync=False"
_SINK = 'str softmax_layout="", Tensor? sink=None'
_STARTS = "int pse_type=1, int[]? q_start_idx=None, int[]? kv_start_idx=None"
_ROPE = "Tensor? query_rope=None, Tensor? key_rope=None"
_DROPOUT = "Tensor? dropout_mask=None, int seed=0, int offset=0"
_SEEDS = "int seed=0, int offset=0, int numels=0"
_SEED_TENSORS = "Tensor? seed=None, Tensor? offset=None"


def _numbers(scale: str, tokens: str) -> str:
    return (
        f"float {scale}=1.0, float keep_prob=1.0, int pre_{tokens}=2147483647, int next_{tokens}=2147483647, "
        "int inner_precise=0"
    )


def _schema(*parts: str, results: str) -> str:
    return f"({', '.join(parts)}) -> ({results})"


_HEADS = "int head_num, str input_layout"
_SEVEN = "Tensor, Tensor, Tensor, Tensor, int, int, int"
_V1, _V2 = _numbers("scale", "tockens"), _numbers("scale", "tokens")
_GRAD_V1, _GRAD_V2 = _numbers("scale_value", "tockens"), _numbers("scale_value", "tokens")
_DY = f"{_QKV}, Tensor dy, {_HEADS}"


def _tensors(count: int) -> str:
    return ", ".join(["Tensor"] * count)


SCHEMAS = {
    "npu_fusion_attention": _schema(
        _QKV, _HEADS, _MASKS, _V1, _LENGTHS, _MODE, _SINK, _DROPOUT, results=_SEVEN
    ),
    "npu_fusion_attention_v2": _schema(
        _QKV, _HEADS, "*", _MASKS, _ROPE, _V2, _LENGTHS, _MODE, _STARTS, _SINK, _DROPOUT, results=_SEVEN
    ),
    "npu_fusion_attention_v3": _schema(
        _QKV, _HEADS, _MASKS, _V1, _LENGTH_TENSORS, _MODE, _SINK, results=_tensors(6)
    ),
    "npu_fusion_attention_grad": _schema(
        _DY, "*", _MASKS, _SAVED, _GRAD_V1, _SEEDS, _LENGTHS, _MODE, _SINK, results=_tensors(5)
    ),
    "npu_fusion_attention_grad_v2": _schema(
        _DY,
        "*",
        _MASKS,
        _SAVED,
        _ROPE,
        _GRAD_V2,
        _SEEDS,
        _LENGTHS,
        _MODE,
        _STARTS,
        _SINK,
        results=_tensors(7),
    ),
    "npu_fusion_attention_grad_v3": _schema(
        _DY, "*", _MASKS, _SAVED, _GRAD_V1, _SEED_TENSORS, _LENGTH_TENSORS, _MODE, _SINK, results=_tensors(5)
    ),
    "_npu_dropout_gen_mask": "(Tensor input, int[] size, float p, int seed, int offset, *, "
    "bool? parallel=True, bool? sync=None) -> Tensor",
    "npu_dropout_gen_mask": "(int[] size, float p, *, ScalarType? dtype=None, Layout? layout=None, "
    "Device? device=None, bool? pin_memory=None) -> Tensor",
    "npu_fused_attention_score": "(Tensor query_layer, Tensor key_layer, Tensor value_layer, "
    "Tensor attention_mask, Scalar scale, float keep_prob, bool query_transpose=False, "
    "bool key_transpose=False, bool bmm_score_transpose_a=False, bool bmm_score_transpose_b=False, "
    "bool value_transpose=False, bool dx_transpose=False) -> Tensor",
    "npu_ring_attention_update": "(Tensor prev_attn_out, Tensor prev_softmax_max, Tensor prev_softmax_sum, "
    "Tensor cur_attn_out, Tensor cur_softmax_max, Tensor cur_softmax_sum, *, Tensor? actual_seq_qlen=None, "
    'str input_layout="SBH", str input_softmax_layout="") -> (Tensor, Tensor, Tensor)',
    "npu_prompt_flash_attention": f"({_QKV}, *, Tensor? padding_mask=None, Tensor? atten_mask=None, "
    "Tensor? pse_shift=None, int[]? actual_seq_lengths=None, Tensor? deq_scale1=None, "
    "Tensor? quant_scale1=None, Tensor? deq_scale2=None, Tensor? quant_scale2=None, "
    "Tensor? quant_offset2=None, int num_heads=1, float scale_value=1.0, int pre_tokens=2147483647, "
    'int next_tokens=0, str input_layout="BSH", int num_key_value_heads=0, '
    "int[]? actual_seq_lengths_kv=None, int sparse_mode=0) -> Tensor",
    **{function.name: caller_schema(function) for function in (NPU_INCRE, FUSED, FUSED_V2)},
    "npu_geglu": "(Tensor self, int dim=-1, int approximate=1, bool activate_left=False) -> (Tensor, Tensor)",
    "npu_rms_norm": "(Tensor self, Tensor gamma, float epsilon=1e-06) -> (Tensor, Tensor)",
}


def start(patches: Patches) -> None:
    """The operators, and torch.npu."""
    define(patches)
    import torch_npu

    patches.set(torch, "npu", torch_npu.npu)
    for name in ("", ".amp", ".random"):
        patches.put(sys.modules, f"torch.npu{name}", sys.modules[f"torch_npu.npu{name}"])


def define(patches: Patches) -> None:
    """Defines every operator of SCHEMAS in the library `npu`, until the patches are undone."""
    import fusion_attention.inference.torch as inference
    import fusion_attention.torch as functions

    library: Any = torch.library.Library("npu", "FRAGMENT")  # type: ignore[no-untyped-call]
    patches.on_undo(library._destroy)
    homes = (functions, inference, elementwise, fused_attention_score, ring)
    for name, schema in SCHEMAS.items():
        function: Any = next(getattr(home, name) for home in homes if hasattr(home, name))
        library.define(name + schema)
        library.impl(name, function, "CompositeImplicitAutograd")
