"""`npu_ring_attention_update`: two partial results of the same rows, over different keys, become one.

    m = max(m_p, m_c);  l = l_p·exp(m_p − m) + l_c·exp(m_c − m);  out = out_p·l_p·exp(m_p − m)/l + out_c·…

A row that saw no key on either side stays one that saw no key, (0, −FLT_MAX, 1), however often it is merged.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from fusion_attention import _check
from fusion_attention.ascend.documented import refuse_undocumented
from fusion_attention.ascend.spelling import spelled

LOWEST = torch.finfo(torch.float32).min  # the maximum of a row that sees no key
LANES = 8  # equal copies of each statistic
_FLOATING = (torch.float32, torch.float16, torch.bfloat16)
_Three = tuple[Tensor, Tensor, Tensor]


def npu_ring_attention_update(
    prev_attn_out: Tensor,
    prev_softmax_max: Tensor,
    prev_softmax_sum: Tensor,
    cur_attn_out: Tensor,
    cur_softmax_max: Tensor,
    cur_softmax_sum: Tensor,
    *,
    actual_seq_qlen: Any = None,
    input_layout: str = "SBH",
    input_softmax_layout: str = "",
) -> _Three:
    """Merges the attention of the same rows over two sets of keys.

    Args:
        prev_attn_out, cur_attn_out (float32, float16 or bfloat16): SBH [S, B, N·D]; TND [T, N, D].
        prev_softmax_max, cur_softmax_max, prev_softmax_sum, cur_softmax_sum (float32): SBH [B, N, S, 8]; TND
            [T, N, 8], as npu_fusion_attention returned them. The first of the eight copies counts.
        actual_seq_qlen (list of int or 1-D integer tensor): TND: cumulative ends of the sequences, with or
            without a leading 0. Needed unless input_softmax_layout is "TND".
        input_layout: SBH or TND, in either case.
        input_softmax_layout: "": TND statistics lie head-major per sequence; "TND": in their natural order.

    Returns:
        (attn_out, softmax_max, softmax_sum), shaped and typed as the arguments. They have no derivative: the
        gradient of ring attention is npu_fusion_attention_grad with the merged results.

    Raises:
        TypeError: an argument of the wrong Python type.
        RuntimeError: a shape, dtype, layout or length that is not allowed.
        NotImplementedError: the derivative of the result is asked for. [training-ops 1.7, 9.3]
    """
    out = _pair("attn_out", prev_attn_out, cur_attn_out, _FLOATING)
    top = _pair("softmax_max", prev_softmax_max, cur_softmax_max, (torch.float32,))
    total = _pair("softmax_sum", prev_softmax_sum, cur_softmax_sum, (torch.float32,))
    layout = _check.as_str("input_layout", input_layout).upper()
    if layout not in ("SBH", "TND"):
        raise RuntimeError(f'input_layout: got "{input_layout}", allowed is SBH or TND')
    natural = _check.as_str("input_softmax_layout", input_softmax_layout)
    if natural not in ("", "TND") or (natural and layout != "TND"):
        raise RuntimeError(
            f'input_softmax_layout: got "{natural}", allowed is "", or "TND" for input_layout TND'
        )
    _check_shapes(out[0], top[0], total[0], layout)
    with spelled(query="prev_attn_out"):
        refuse_undocumented(
            "npu_ring_attention_update", prev_attn_out, prev_attn_out, prev_attn_out, top[0].shape[1], layout
        )
    place = None
    if layout == "TND" and not natural:
        place = _head_major(_ends(actual_seq_qlen, out[0].shape[0]), out[0].shape[0], out[0].shape[1])
    merged: _Three = _Update.apply(layout, place, *out, *top, *total)  # type: ignore[no-untyped-call]
    return merged


class _Update(torch.autograd.Function):
    """Says that there is no derivative instead of giving one that ignores the statistics."""

    @staticmethod
    def forward(
        ctx: Any,
        layout: str,
        place: Tensor | None,
        prev_out: Tensor,
        cur_out: Tensor,
        prev_max: Tensor,
        cur_max: Tensor,
        prev_sum: Tensor,
        cur_sum: Tensor,
    ) -> _Three:
        rest = (prev_max[..., 0], cur_max[..., 0], prev_sum[..., 0], cur_sum[..., 0])
        prev_weight, cur_weight, top, total = _weights(*rest)
        shape = prev_max.shape
        if layout == "SBH":
            rows, batch, width = prev_out.shape
            heads = prev_max.shape[1]
            split: tuple[int, ...] = (rows, batch, heads, width // heads)
            weights = [w.permute(2, 0, 1).unsqueeze(-1) for w in (prev_weight, cur_weight)]
        else:
            split = tuple(prev_out.shape)
            natural = (w if place is None else w.flatten()[place] for w in (prev_weight, cur_weight))
            weights = [w.unsqueeze(-1) for w in natural]
        prev, cur = (x.reshape(split).float() * w for x, w in zip((prev_out, cur_out), weights))
        out = (prev + cur).reshape(prev_out.shape).to(prev_out.dtype)
        top, total = (x.unsqueeze(-1).expand(shape).contiguous() for x in (top, total))
        return out, top, total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise NotImplementedError(
            "npu_ring_attention_update: got a derivative, allowed is npu_fusion_attention_grad "
            "with the merged attention_in, softmax_max and softmax_sum"
        )


def _weights(prev_max: Tensor, cur_max: Tensor, prev_sum: Tensor, cur_sum: Tensor) -> tuple[Tensor, ...]:
    """The factors of the two outputs and the merged statistics, all in float32 [.., row]."""
    # Rows without a key: ours have the sum 1; others write FLT_MAX, or 0 for both statistics.
    prev_max, cur_max = (
        m.masked_fill((m <= LOWEST) | (total == 0), LOWEST)
        for m, total in ((prev_max, prev_sum), (cur_max, cur_sum))
    )
    top = torch.maximum(prev_max, cur_max)
    prev, cur = (
        torch.where(m == LOWEST, 0.0, total * (m - top).exp())
        for m, total in ((prev_max, prev_sum), (cur_max, cur_sum))
    )
    total = torch.where(top == LOWEST, 1.0, prev + cur)
    return prev / total, cur / total, top, total


def _pair(name: str, prev: Any, cur: Any, dtypes: tuple[torch.dtype, ...]) -> tuple[Tensor, Tensor]:
    for side, tensor in (("prev", prev), ("cur", cur)):
        if not isinstance(tensor, Tensor):
            _check.refuse_type(f"{side}_{name}", tensor, "a torch tensor")
        if tensor.dtype not in dtypes:
            allowed = " or ".join(str(dtype) for dtype in dtypes)
            raise RuntimeError(f"{side}_{name}: got {tensor.dtype}, allowed is {allowed}")
    if cur.shape != prev.shape or cur.dtype != prev.dtype:
        given, allowed = (f"{x.dtype} {list(x.shape)}" for x in (cur, prev))
        raise RuntimeError(f"cur_{name}: got {given}, allowed is prev_{name}'s {allowed}")
    return prev, cur


def _check_shapes(out: Tensor, top: Tensor, total: Tensor, layout: str) -> None:
    if out.dim() != 3:
        raise RuntimeError(
            f"prev_attn_out: got rank {out.dim()}, allowed is rank 3 for input_layout {layout}"
        )
    heads = top.shape[1] if top.dim() > 1 else 0
    letters = "[B, N, S, 8]" if layout == "SBH" else "[T, N, 8]"
    expected = (out.shape[1], heads, out.shape[0]) if layout == "SBH" else tuple(out.shape[:2])
    for name, tensor in (("prev_softmax_max", top), ("prev_softmax_sum", total)):
        if tuple(tensor.shape) != (*expected, LANES):
            raise RuntimeError(
                f"{name}: got {list(tensor.shape)}, allowed is {letters} for {list(out.shape)} in {layout}"
            )
    if layout == "SBH" and (heads == 0 or out.shape[2] % heads):
        raise RuntimeError(f"prev_attn_out: got {out.shape[2]} channels, allowed are multiples of {heads}")


def _ends(given: Any, tokens: int) -> list[int]:
    """Ends of the sequences without a leading 0; what lies behind the last is one more sequence."""
    if given is None:
        raise RuntimeError("actual_seq_qlen: got None, allowed are the ends of the sequences for TND")
    if isinstance(given, Tensor) and (given.dim() != 1 or given.dtype.is_floating_point):
        raise RuntimeError(
            f"actual_seq_qlen: got a {given.dtype} tensor of rank {given.dim()}, allowed is a list of ints "
            "or a 1-D integer tensor"
        )
    items: Iterable[Any] = given.tolist() if isinstance(given, Tensor) else given
    ends = _check.as_ints("actual_seq_qlen", items)
    while ends and ends[-1] == 0:  # slots that no sequence uses
        ends.pop()
    if any(b < a for a, b in zip([0, *ends], ends)) or (ends and ends[-1] > tokens):
        raise RuntimeError(
            f"actual_seq_qlen: got {ends}, allowed are growing numbers from 0 to T, which is {tokens}"
        )
    return ends if ends and ends[-1] == tokens else [*ends, tokens]


def _head_major(ends: list[int], tokens: int, heads: int) -> Tensor:
    """Where the statistic of (token, head) lies: sequence by sequence, each head after head. [T, N]"""
    starts = torch.tensor([0, *ends[:-1]], dtype=torch.int64)
    lengths = torch.tensor(ends, dtype=torch.int64) - starts
    start = starts.repeat_interleave(lengths)[:, None]
    length = lengths.repeat_interleave(lengths)[:, None]
    head = torch.arange(heads)[None, :]
    return start * heads + head * length + torch.arange(tokens)[:, None] - start
