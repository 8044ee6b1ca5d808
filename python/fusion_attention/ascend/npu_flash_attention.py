"""`ascendspeed.ops`: npu_flash_attention, its gradient and the module FlashAttention."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fusion_attention import _check
from fusion_attention.ascend.documented import refuse_undocumented
from fusion_attention.ascend.ring import LANES, LOWEST
from fusion_attention.ascend.score import Score, plain
from fusion_attention.ascend.spelling import hiding, spelled
from fusion_attention.torch import examine, gradient_with_mask, npu_fusion_attention

FARTHEST = 2147483647
# The axes [B, N, S, D] of a dense layout, once BSH and SBH have their heads apart.
_LOGICAL = {"BSH": (0, 2, 1, 3), "BSND": (0, 2, 1, 3), "SBH": (1, 2, 0, 3), "BNSD": (0, 1, 2, 3)}


def npu_flash_attention(
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
    pre_tockens: int = FARTHEST,
    next_tockens: int = FARTHEST,
    gen_mask_parallel: bool = True,
    sync: bool = False,
    *,
    drop_mask: Tensor | None = None,
) -> Score:
    """Fused attention, softmax(scale·(Q·Kᵀ + pse))·V; differentiable.

    Args:
        query, key, value (float16, float32 or bfloat16): BSH or SBH as documented; BSND and BNSD too.
        head_num (int): N of query. input_layout (str): in either case.
        pse (query's dtype): added before the scale; as in npu_fusion_attention.
        padding_mask: must be None.
        atten_mask (float16, float32, bfloat16, bool, uint8 or int8): non-zero hides that key from that row.
            [Sq, Skv] or [1 or B, 1 or N, Sq, Skv].
        scale, keep_prob (float, or a tensor of one element): keep_prob in (0, 1].
        pre_tockens, next_tockens (int): row i sees key j when i − pre_tockens <= j <= i + next_tockens, where
            there is an atten_mask.
        gen_mask_parallel, sync (bool): without effect.
        drop_mask (uint8): a bit per score, 1 keeps; by keyword only, as no documented call passes it.

    Returns:
        [attention_score], a list that is also usable as its tensor, with softmax_max, softmax_sum, seed and
        offset: `fusion_attention.ascend.score.Score`.

    Raises:
        TypeError: an argument of the wrong Python type or unknown: query_transpose, real_shift, is_flash …
        RuntimeError: anything else that is not allowed. [seed 002, training-ops 1.9]
    """
    query, key, value, pse = map(plain, (query, key, value, pse))
    refuse_undocumented("npu_flash_attention", query, key, value, head_num, input_layout)
    with spelled(dropout_mask="drop_mask"):
        out, top, total, _, seed, offset, _ = npu_fusion_attention(
            query,
            key,
            value,
            head_num,
            _dense(input_layout),
            pse=pse,
            padding_mask=padding_mask,
            atten_mask=hiding("atten_mask", atten_mask),
            scale=scale,
            keep_prob=keep_prob,
            pre_tockens=pre_tockens,
            next_tockens=next_tockens,
            gen_mask_parallel=gen_mask_parallel,
            sync=sync,
            dropout_mask=drop_mask,
        )
    return Score(out, top, total, seed, offset)


class Gradients(list[Any]):
    """The 14 entries [dq, dk, dv, None, None, dpse, None × 8], also by name."""

    def __init__(self, dq: Tensor, dk: Tensor, dv: Tensor, dpse: Tensor | None) -> None:
        super().__init__([dq, dk, dv, None, None, dpse, *[None] * 8])
        self.dq, self.dk, self.dv, self.dpse = dq, dk, dv, dpse


def npu_flash_attention_grad(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dy: Tensor,
    head_num: int,
    input_layout: str,
    pse: Tensor | None = None,
    padding_mask: Tensor | None = None,
    atten_mask: Tensor | None = None,
    softmax_max: Tensor | None = None,
    softmax_sum: Tensor | None = None,
    softmax_in: Tensor | None = None,
    attention_in: Tensor | None = None,
    scale_value: float = 1.0,
    keep_prob: float = 1.0,
    pre_tockens: int = FARTHEST,
    next_tockens: int = FARTHEST,
    gen_mask_parallel: bool = True,
    sync: bool = False,
    *,
    seed: int | None = None,
    offset: int | None = None,
    drop_mask: Tensor | None = None,
) -> Gradients:
    """Gradients of npu_flash_attention from what its forward saved.

    Args:
        dy (query's dtype): the gradient of attention_score.
        softmax_max, softmax_sum (float32 [B, N, Sq, 8]): of the forward, never recomputed.
        softmax_in (query's dtype or float32 [B, N, Sq, Skv]): the softmax before dropout; used where the
            statistics are None. Its largest entry of each row normalises that row.
        attention_in (query's dtype): attention_score.
        seed, offset (int): of the forward, by keyword; needed where keep_prob is below 1
            without drop_mask.
        drop_mask (uint8): that of the forward, by keyword.
        The others as in npu_flash_attention.

    Returns:
        `Gradients`, in the shapes and dtypes of query, key, value and pse.

    Raises:
        TypeError: an argument of the wrong Python type or unknown.
        RuntimeError: anything else that is not allowed; neither statistics nor softmax_in; keep_prob below 1
            without drop_mask or seed and offset: the NPU draws bits that are not the forward's. [seed 002]
    """
    query, key, value, dy, pse, attention_in = map(plain, (query, key, value, dy, pse, attention_in))
    refuse_undocumented("npu_flash_attention", query, key, value, head_num, input_layout, backward=True)
    keep_prob = _check.as_float("keep_prob", keep_prob)
    if keep_prob < 1 and drop_mask is None and (seed is None or offset is None):
        raise RuntimeError(
            f"keep_prob: got {keep_prob} without seed and offset, allowed is 1, or theirs or drop_mask"
        )
    layout, scale = _dense(input_layout), _check.as_float("scale_value", scale_value)
    if softmax_max is None or softmax_sum is None:
        if softmax_in is None:
            missing = "softmax_max" if softmax_max is None else "softmax_sum"
            raise RuntimeError(
                f"{missing}: got None without softmax_in, allowed are both statistics, or softmax_in"
            )
        examine(query, key, value, head_num, layout)  # refuses what has no heads to take apart
        softmax_max, softmax_sum = _statistics(query, key, head_num, layout, softmax_in, pse, scale)
    words = {"pre_tokens": "pre_tockens", "next_tokens": "next_tockens"}
    with spelled(**words, scale="scale_value", dropout_mask="drop_mask"):
        dq, dk, dv, dpse, *_ = gradient_with_mask(
            query,
            key,
            value,
            dy,
            head_num,
            layout,
            pse=pse,
            padding_mask=padding_mask,
            atten_mask=hiding("atten_mask", atten_mask),
            softmax_max=softmax_max,
            softmax_sum=softmax_sum,
            attention_in=attention_in,
            scale_value=scale,
            keep_prob=keep_prob,
            pre_tokens=pre_tockens,
            next_tokens=next_tockens,
            seed=seed or 0,
            offset=offset or 0,
            dropout_mask=drop_mask,
            gen_mask_parallel=gen_mask_parallel,
            sync=sync,
        )
    return Gradients(dq, dk, dv, dpse)


class FlashAttention(torch.nn.Module):
    """npu_flash_attention as a module without parameters."""

    def forward(self, *args: Any, **kwargs: Any) -> Score:
        """npu_flash_attention; a leading argument that is no tensor, its document's `self`, is dropped."""
        if args and not isinstance(args[0], (Tensor, Score)):
            args = args[1:]
        return npu_flash_attention(*args, **kwargs)


def _dense(input_layout: str) -> str:
    layout = _check.as_str("input_layout", input_layout).upper()
    if layout not in _LOGICAL:
        raise RuntimeError(f'input_layout: got "{input_layout}", allowed is BSH, SBH, BSND or BNSD')
    return layout


def _statistics(
    query: Tensor,
    key: Tensor,
    head_num: int,
    layout: str,
    softmax_in: Tensor,
    pse: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """(max, sum) such that exp(score − max)/sum is softmax_in: those of its largest entry in each row.

    That entry p of score s gives max = s and sum = 1/p, whatever the other entries were rounded to.
    """
    q, k = _heads(query, layout, head_num), _heads(key, layout, head_num, query)
    batch, heads, rows, _ = q.shape
    expected = (batch, heads, rows, k.shape[2])
    if not isinstance(softmax_in, Tensor):
        _check.refuse_type("softmax_in", softmax_in, "a torch tensor")
    if tuple(softmax_in.shape) != expected or not softmax_in.dtype.is_floating_point:
        given = f"{softmax_in.dtype} {list(softmax_in.shape)}"
        raise RuntimeError(f"softmax_in: got {given}, allowed is floating [B, N, Sq, Skv], {list(expected)}")
    if k.shape[2] == 0:
        shape = (batch, heads, rows, LANES)
        return torch.full(shape, LOWEST), torch.ones(shape)
    largest, place = softmax_in.float().max(-1)
    kv_head = torch.arange(heads) // (heads // k.shape[1])
    keys = k[torch.arange(batch)[:, None, None], kv_head[None, :, None], place]
    score = (q.float() * keys.float()).sum(-1)
    if pse is not None:
        try:
            bias = pse.expand(expected)
        except RuntimeError:
            raise RuntimeError(
                f"pse: got {list(pse.shape)} with softmax_in, allowed is what broadcasts to {list(expected)}"
            ) from None
        score = score + bias.gather(-1, place[..., None])[..., 0].float()
    hidden = largest <= 0
    top = torch.where(hidden, LOWEST, score * scale)
    total = torch.where(hidden, 1.0, 1 / largest)
    first, second = (x.unsqueeze(-1).expand(*x.shape, LANES).contiguous() for x in (top, total))
    return first, second


def _heads(operand: Tensor, layout: str, head_num: int, query: Tensor | None = None) -> Tensor:
    """As [B, N, S, D]; the heads of key are told by query's D."""
    if operand.dim() == 3:
        width = (query if query is not None else operand).shape[2] // head_num
        operand = operand.reshape(*operand.shape[:2], -1, width)
    return operand.permute(_LOGICAL[layout])
