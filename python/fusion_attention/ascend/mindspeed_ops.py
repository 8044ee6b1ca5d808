"""mindspeed's operators: what its builders load, and the Python functions on top."""

from __future__ import annotations

import importlib
from functools import wraps
from types import SimpleNamespace
from typing import Any

from torch import Tensor

import fusion_attention.torch as functions
from fusion_attention.ascend import ring
from fusion_attention.ascend.documented import refuse_undocumented
from fusion_attention.ascend.exclusive_tokens import FARTHEST, attend
from fusion_attention.ascend.patches import Patches
from fusion_attention.ascend.spelling import spelled

# In the order of the loaded modules, after query, key, value, [dy,] head_num and input_layout.
_SCORES = "pse padding_mask atten_mask"
_SAVED = "softmax_max softmax_sum softmax_in attention_in"
_LENGTHS = "prefix actual_seq_qlen actual_seq_kvlen sparse_mode gen_mask_parallel sync"
_STARTS = "pse_type q_start_idx kv_start_idx"
_TOKENS = "keep_prob pre_tokens next_tokens inner_precise"
_FORWARD = f"{_SCORES} scale {_TOKENS} {_LENGTHS} {_STARTS}"
_BACKWARD = f"{_SCORES} {_SAVED} scale_value {_TOKENS} seed offset numels {_LENGTHS} {_STARTS}"


def _named(name: str, words: str, given: tuple[Any, ...]) -> dict[str, Any]:
    names = words.split()
    if len(given) != len(names):
        raise TypeError(f"{name}: got {len(given)} arguments after input_layout, allowed are {len(names)}")
    return dict(zip(names, given))


def npu_fusion_attention_v2(
    query: Tensor, key: Tensor, value: Tensor, head_num: int, input_layout: str, /, *rest: Any
) -> tuple[Any, ...]:
    """npu_fusion_attention_v2 as the loaded module has it, the 17 arguments of `_FORWARD` by position."""
    options = _named("npu_fusion_attention_v2", _FORWARD, rest)
    refuse_undocumented("mindspeed", query, key, value, head_num, input_layout, **options)
    return functions.npu_fusion_attention_v2(query, key, value, head_num, input_layout, **options)


def npu_fusion_attention_grad_v2(
    query: Tensor, key: Tensor, value: Tensor, dy: Tensor, head_num: int, input_layout: str, /, *rest: Any
) -> tuple[Any, ...]:
    """The loaded module's gradient, (dq, dk, dv, dpse), with its 24 arguments of `_BACKWARD` by position."""
    options = _named("npu_fusion_attention_grad_v2", _BACKWARD, rest)
    refuse_undocumented("mindspeed", query, key, value, head_num, input_layout, backward=True, **options)
    gradients = functions.npu_fusion_attention_grad_v2(
        query, key, value, dy, head_num, input_layout, **options
    )
    return gradients[:4]


def npu_ring_attention_update(
    prev_attn_out: Tensor,
    prev_softmax_max: Tensor,
    prev_softmax_sum: Tensor,
    cur_attn_out: Tensor,
    cur_softmax_max: Tensor,
    cur_softmax_sum: Tensor,
    actual_seq_qlen: Any = None,
    layout: str = "SBH",
) -> tuple[Tensor, Tensor, Tensor]:
    """torch_npu's npu_ring_attention_update under mindspeed's order; TND statistics lie head-major."""
    with spelled(input_layout="layout"):
        return ring.npu_ring_attention_update(
            prev_attn_out,
            prev_softmax_max,
            prev_softmax_sum,
            cur_attn_out,
            cur_softmax_max,
            cur_softmax_sum,
            actual_seq_qlen=actual_seq_qlen,
            input_layout=layout,
        )


# What `MindSpeedOpBuilder.load` gives, by the builder's name.
LOADED = {
    "fusion_attention_v2": SimpleNamespace(
        npu_fusion_attention_v2=npu_fusion_attention_v2,
        npu_fusion_attention_grad_v2=npu_fusion_attention_grad_v2,
    ),
    "npu_ring_attention_update": SimpleNamespace(npu_ring_attention_update=npu_ring_attention_update),
}


def load_instead(patches: Patches) -> None:
    """Lets a genuine mindspeed load our operators; its builders would compile theirs against CANN."""
    try:
        builder = importlib.import_module("mindspeed.op_builder.builder").MindSpeedOpBuilder
    except Exception as error:
        raise RuntimeError(
            'layers: got "mindspeed" beside a genuine mindspeed whose op_builder fails to import '
            f"({error}), allowed is one that can be imported"
        ) from error
    compiled = builder.load

    @wraps(compiled)
    def load(self: Any, *args: Any, **options: Any) -> Any:
        return LOADED[self.name] if self.name in LOADED else compiled(self, *args, **options)

    patches.set(builder, "load", load)


def _fusion_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    head_num: int,
    input_layout: str,
    *,
    pse: Tensor | None = None,
    padding_mask: Tensor | None = None,
    atten_mask: Tensor | None = None,
    scale: float = 1.0,
    keep_prob: float = 1.0,
    pre_tokens: int = FARTHEST,
    next_tokens: int = FARTHEST,
    inner_precise: int = 0,
    prefix: Any = None,
    actual_seq_qlen: Any = None,
    actual_seq_kvlen: Any = None,
    sparse_mode: int = 0,
    gen_mask_parallel: bool = True,
    sync: bool = False,
    pse_type: int = 1,
    q_start_idx: Any = None,
    kv_start_idx: Any = None,
) -> tuple[Any, ...]:
    """Fused attention as `torch_npu.npu_fusion_attention_v2`, whose documentation says what each argument is.

    A positional call whose fourth argument is a tensor or None has the older order instead: see
    `fusion_attention.ascend.exclusive_tokens`. It returns attention_out alone.

    Returns:
        (attention_out, softmax_max, softmax_sum, softmax_out, seed, offset, numels); differentiable in query,
        key, value and pse.

    Raises:
        TypeError: an argument of the wrong Python type.
        RuntimeError: anything else that is not allowed. [seed 001, training-ops 1.6]
    """
    return npu_fusion_attention_v2(
        query,
        key,
        value,
        head_num,
        input_layout,
        pse,
        padding_mask,
        atten_mask,
        scale,
        keep_prob,
        pre_tokens,
        next_tokens,
        inner_precise,
        prefix,
        actual_seq_qlen,
        actual_seq_kvlen,
        sparse_mode,
        gen_mask_parallel,
        sync,
        pse_type,
        q_start_idx,
        kv_start_idx,
    )


@wraps(_fusion_attention)
def npu_fusion_attention(*args: Any, **kwargs: Any) -> Any:
    if len(args) >= 4 and (args[3] is None or isinstance(args[3], Tensor)):
        return attend(*args, document="mindspeed", **kwargs)
    return _fusion_attention(*args, **kwargs)


npu_fusion_attention.__name__ = npu_fusion_attention.__qualname__ = "npu_fusion_attention"


def npu_fusion_attention_grad(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    grad_outputs: Tensor,
    head_num: int,
    input_layout: str,
    *,
    pse: Tensor | None = None,
    padding_mask: Tensor | None = None,
    atten_mask: Tensor | None = None,
    softmax_max: Tensor | None = None,
    softmax_sum: Tensor | None = None,
    softmax_in: Tensor | None = None,
    attention_in: Tensor | None = None,
    scale: float = 1.0,
    keep_prob: float = 1.0,
    pre_tokens: int = FARTHEST,
    next_tokens: int = FARTHEST,
    inner_precise: int = 0,
    seed: int = 1234,
    offset: int = 0,
    numels: int = 0,
    prefix: Any = None,
    actual_seq_qlen: Any = None,
    actual_seq_kvlen: Any = None,
    sparse_mode: int = 0,
    gen_mask_parallel: bool = True,
    sync: bool = False,
    pse_type: int = 1,
    q_start_idx: Any = None,
    kv_start_idx: Any = None,
) -> tuple[Any, ...]:
    """Gradients as `torch_npu.npu_fusion_attention_grad_v2`; dy is called grad_outputs, scale_value scale.

    Returns:
        (dq, dk, dv, dpse).

    Raises:
        TypeError: an argument of the wrong Python type.
        RuntimeError: anything else that is not allowed. [training-ops 1.6]
    """
    with spelled(dy="grad_outputs", scale_value="scale"):
        return npu_fusion_attention_grad_v2(
            query,
            key,
            value,
            grad_outputs,
            head_num,
            input_layout,
            pse,
            padding_mask,
            atten_mask,
            softmax_max,
            softmax_sum,
            softmax_in,
            attention_in,
            scale,
            keep_prob,
            pre_tokens,
            next_tokens,
            inner_precise,
            seed,
            offset,
            numels,
            prefix,
            actual_seq_qlen,
            actual_seq_kvlen,
            sparse_mode,
            gen_mask_parallel,
            sync,
            pse_type,
            q_start_idx,
            kv_start_idx,
        )
