"""`torch_npu.npu_fused_attention_score`, the deprecated predecessor of npu_fusion_attention."""

from __future__ import annotations

from torch import Tensor

from fusion_attention import _check
from fusion_attention.ascend.spelling import spelled
from fusion_attention.torch import npu_fusion_attention_v2

_TRANSPOSES = (
    "query_transpose",
    "key_transpose",
    "bmm_score_transpose_a",
    "bmm_score_transpose_b",
    "value_transpose",
    "dx_transpose",
)


def npu_fused_attention_score(
    query_layer: Tensor,
    key_layer: Tensor,
    value_layer: Tensor,
    attention_mask: Tensor,
    scale: float,
    keep_prob: float,
    query_transpose: bool = False,
    key_transpose: bool = False,
    bmm_score_transpose_a: bool = False,
    bmm_score_transpose_b: bool = False,
    value_transpose: bool = False,
    dx_transpose: bool = False,
) -> Tensor:
    """dropout(softmax(scale·Q·Kᵀ + attention_mask))·V with the heads side by side; differentiable.

    Args:
        query_layer (float16, bfloat16 or float32): [B, N, Sq, D].
        key_layer, value_layer (query_layer's dtype): [B, N, Skv, D], [B, N, Skv, Dv].
        attention_mask (query_layer's dtype): added to the scaled scores. [1 or B, 1 or N, 1 or Sq, Skv].
        scale (float): multiplies Q·Kᵀ. keep_prob (float): 1 − the dropout probability, in (0, 1].
        query_transpose, key_transpose, bmm_score_transpose_a, bmm_score_transpose_b, value_transpose,
            dx_transpose (bool): must be False.

    Returns:
        [B·Sq, N·Dv] in query_layer's dtype.

    Raises:
        TypeError: an argument of the wrong Python type.
        RuntimeError: anything else that is not allowed. [op-plugin, npu_fused_attention_score]
    """
    given = (query_transpose, key_transpose, bmm_score_transpose_a, bmm_score_transpose_b)
    for name, value in zip(_TRANSPOSES, (*given, value_transpose, dx_transpose)):
        if _check.as_bool(name, value):
            raise RuntimeError(f"{name}: got True, allowed is False")
    if not isinstance(query_layer, Tensor):
        _check.refuse_type("query_layer", query_layer, "a torch tensor")
    if query_layer.dim() != 4:
        raise RuntimeError(f"query_layer: got rank {query_layer.dim()}, allowed is rank 4, [B, N, Sq, D]")
    if attention_mask is None:
        raise RuntimeError("attention_mask: got None, allowed is a torch tensor")
    words = {"query": "query_layer", "key": "key_layer", "value": "value_layer", "pse": "attention_mask"}
    with spelled(**words):
        out = npu_fusion_attention_v2(
            query_layer,
            key_layer,
            value_layer,
            query_layer.shape[1],
            "BNSD",
            pse=attention_mask,
            pse_type=0,
            scale=scale,
            keep_prob=keep_prob,
        )[0]
    return out.permute(0, 2, 1, 3).flatten(2).flatten(0, 1)
