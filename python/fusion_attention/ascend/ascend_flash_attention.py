"""`ascendspeed.te.ops.ascend_flash_attention` in the three orders of arguments that its documents have."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fusion_attention import _check
from fusion_attention.ascend.exclusive_tokens import FARTHEST, attend
from fusion_attention.torch import npu_fusion_attention_v2

_LAYOUTS = ("BNSD", "BSH", "SBH")  # by their number in the 14 arguments


def ascend_flash_attention(*args: Any, **kwargs: Any) -> Any:
    """Fused attention with a mask, exclusive tokens and a bias after the scale; differentiable.

    Three orders of arguments, told apart by the types of the fourth and the sixth:

        (query, key, value, atten_mask=None, alibi_mask=None, scale_value=1.0, q_scale=1.0, head_num=1,
         io_layout="BNSD", keep_prob=1.0, pre_tokens=2147483647, next_tokens=1, precise_mode=0)
        (query, key, value, atten_mask, alibi_mask, drop_mask, scale_value, head_num, io_layout, keep_prob,
         pre_tokens, next_tokens, precise_mode, groups)
        (query, key, value, head_num, input_layout, pse, padding_mask, atten_mask, scale, keep_prob,
         pre_tokens, next_tokens, inner_precise, [prefix, sparse_mode,] gen_mask_parallel, sync)

    The third is npu_fusion_attention_v2 by position, in its own meaning. Of the first two:

    Args:
        query, key, value (float16, bfloat16 or float32): laid out as io_layout says; any S and D.
        atten_mask (float16, bfloat16, float32, bool, uint8 or int8): non-zero hides that key from that row.
            [S, S] or [1 or B, 1 or N, S, S]; read [row, key], or [key, row] when only that agrees with the
            tokens, which is said once. None: full attention whatever the tokens say.
        alibi_mask (query's dtype): added to the scaled scores. [B, N, Skv] or
            [1 or B, 1 or N, 1 or Sq, Skv].
        drop_mask (uint8): a bit per score, 1 keeps; as the dropout_mask of npu_fusion_attention.
        scale_value, q_scale (float): both multiply Q·Kᵀ.
        head_num (int): N of query.
        io_layout: "BNSD", "BSH", "SBH"; among 14 arguments 0, 1, 2.
        keep_prob (float): 1 − the dropout probability, in (0, 1].
        pre_tokens, next_tokens (int): row i sees key j when i − j < pre_tokens and j − i < next_tokens.
        precise_mode (int): 0 or 1, without effect. groups (int): −1.

    Returns:
        attention_out, in query's layout and dtype; in the third order the seven results of
        npu_fusion_attention.

    Raises:
        TypeError: an argument of the wrong Python type, or too many or few of them.
        RuntimeError: anything else that is not allowed. [seed 000, training-ops 1.8]
    """
    fourth = args[3] if len(args) > 3 else None
    if isinstance(fourth, int) and not isinstance(fourth, bool):
        return _fusion_order(*args, **kwargs)
    if len(args) > 5 and (args[5] is None or isinstance(args[5], Tensor)):
        return _numbered_layout(*args, **kwargs)
    return attend(*args, **kwargs)


def _numbered_layout(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    atten_mask: Tensor | None,
    alibi_mask: Tensor | None,
    drop_mask: Tensor | None,
    scale_value: float,
    head_num: int,
    io_layout: int,
    keep_prob: float,
    pre_tokens: int,
    next_tokens: int,
    precise_mode: int,
    groups: int,
) -> Tensor:
    """The 14 arguments of seed 000's example."""
    layout = _check.as_int("io_layout", io_layout)
    if not 0 <= layout < len(_LAYOUTS):
        raise RuntimeError(f"io_layout: got {layout}, allowed is 0 (BNSD), 1 (BSH) or 2 (SBH)")
    if _check.as_int("groups", groups) != -1:
        raise RuntimeError(f"groups: got {groups}, allowed is -1")
    return attend(
        query,
        key,
        value,
        atten_mask,
        alibi_mask,
        scale_value,
        1.0,
        head_num,
        _LAYOUTS[layout],
        keep_prob,
        pre_tokens,
        next_tokens,
        precise_mode,
        drop_mask=drop_mask,
    )


def _fusion_order(*args: Any, **kwargs: Any) -> Any:
    """The order of npu_fusion_attention; without prefix and sparse_mode a bool stands in their place."""
    if len(args) > 13 and isinstance(args[13], bool):
        args = (*args[:13], None, 0, *args[13:])
    return _fusion(*args, **kwargs)


def _fusion(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    head_num: int,
    input_layout: str,
    pse: Tensor | None = None,
    padding_mask: Tensor | None = None,
    atten_mask: Tensor | None = None,
    scale: float = 1.0,
    keep_prob: float = 1.0,
    pre_tokens: int = FARTHEST,
    next_tokens: int = FARTHEST,
    inner_precise: int = 0,
    prefix: Any = None,
    sparse_mode: int = 0,
    gen_mask_parallel: bool = True,
    sync: bool = False,
) -> Any:
    return npu_fusion_attention_v2(
        query,
        key,
        value,
        head_num,
        input_layout,
        pse=pse,
        padding_mask=padding_mask,
        atten_mask=atten_mask,
        scale=scale,
        keep_prob=keep_prob,
        pre_tokens=pre_tokens,
        next_tokens=next_tokens,
        inner_precise=inner_precise,
        prefix=prefix,
        sparse_mode=sparse_mode,
        gen_mask_parallel=gen_mask_parallel,
        sync=sync,
    )
