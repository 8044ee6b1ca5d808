"""npu_fusion_attention on torch tensors: eager, autograd, autocast and torch.compile(fullgraph=True).

Six public functions under the exact names, orders and defaults of the Ascend documents stand on the operators
torch.ops.fusion_attention.forward and backward. Lengths reach them as tensors, so that a compiled graph does
not depend on their values.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fusion_attention import _check, _core, _shapes, _table
from fusion_attention._define import define, torch_schemas
from fusion_attention._elements import ELEMENTS, OTHER
from fusion_attention._explain import examiner

if TYPE_CHECKING:
    from fusion_attention import _signatures

# --- The operators ---

_ELEMENT = {getattr(torch, name): code for name, code in ELEMENTS.items() if hasattr(torch, name)}
_ELEMENT[torch.bool] = ELEMENTS["bool"]

_library: Any = torch.library.Library("fusion_attention", "DEF")  # type: ignore[no-untyped-call]
_FORWARD, _BACKWARD = torch_schemas()
# `forward` can be differentiated; `inference` is the same without the detour through autograd: what `forward`
# stands on, and what is called when nothing requires a gradient.
for _name, _schema in (("forward", _FORWARD), ("inference", _FORWARD), ("backward", _BACKWARD)):
    _library.define(_name + _schema, tags=(torch.Tag.pt2_compliant_tag, torch.Tag.flexible_layout))

_STRIDED, _FLOAT32 = torch.strided, torch.float32
_Array = tuple[int, int, Any, Any]


def _array(name: str, tensor: Tensor | None) -> _Array | None:
    """What the binding takes: address, element, shape, strides."""
    if tensor is None:
        return None
    if tensor.is_cpu and tensor.layout is _STRIDED:
        return tensor.data_ptr(), _ELEMENT.get(tensor.dtype, OTHER), tensor.shape, tensor.stride()
    given = f"layout {tensor.layout}" if tensor.is_cpu else f"device {tensor.device}"
    raise RuntimeError(f"{name}: got {given}, allowed is a dense tensor on the cpu")


def _integers(name: str, tensor: Tensor | None) -> list[int] | None:
    if tensor is None:
        return None
    if tensor.dim() != 1 or tensor.dtype.is_floating_point or tensor.dtype is torch.bool or not tensor.is_cpu:
        given = f"a {tensor.dtype} tensor of rank {tensor.dim()} on {tensor.device}"
        raise RuntimeError(
            f"{name}: got {given}, allowed is a list of ints or a 1-D integer tensor on the cpu"
        )
    ends: list[int] = tensor.tolist()
    return ends


def _call(
    backward: bool,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    tockens: bool,
    head_num: int,
    input_layout: str,
    scale: float = 1.0,
    atten_mask: Tensor | None = None,
    sparse_mode: int = 0,
    pre_tokens: int = _table.INT_MAX,
    next_tokens: int = _table.INT_MAX,
    actual_seq_qlen: Tensor | None = None,
    actual_seq_kvlen: Tensor | None = None,
    softmax_layout: str = "",
    keep_prob: float = 1.0,
    inner_precise: int = 0,
    prefix: list[int] | None = None,
    pse_type: int = 1,
    pse: Tensor | None = None,
    padding_mask: Tensor | None = None,
    query_rope: Tensor | None = None,
    key_rope: Tensor | None = None,
    sink: Tensor | None = None,
    dropout_mask: Tensor | None = None,
    q_start_idx: list[int] | None = None,
    kv_start_idx: list[int] | None = None,
    seed: Tensor | None = None,
    offset: Tensor | None = None,
) -> _core.FusionAttention:
    """The call, read and checked in C++."""
    return _core.FusionAttention(
        backward,
        tockens,
        _array("query", query),
        _array("key", key),
        _array("value", value),
        head_num,
        input_layout,
        scale,
        _array("atten_mask", atten_mask),
        sparse_mode,
        pre_tokens,
        next_tokens,
        _integers("actual_seq_qlen", actual_seq_qlen),
        _integers("actual_seq_kvlen", actual_seq_kvlen),
        softmax_layout,
        keep_prob,
        inner_precise,
        prefix,
        pse_type,
        _array("pse", pse),
        _array("padding_mask", padding_mask),
        _array("query_rope", query_rope),
        _array("key_rope", key_rope),
        _array("sink", sink),
        _array("dropout_mask", dropout_mask),
        q_start_idx,
        kv_start_idx,
    )


def _forward_kernel(query: Tensor, *rest: Any, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
    call = _call(False, query, *rest, **options)
    out = torch.empty(*call.output_shape, dtype=query.dtype)
    top = torch.empty(*call.statistics_shape, dtype=_FLOAT32)
    total = torch.empty_like(top)
    call.forward(out.data_ptr(), top.data_ptr(), total.data_ptr())
    for note in call.notes():
        warnings.warn(note, stacklevel=2)
    return out, top, total


def _backward_kernel(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dy: Tensor,
    softmax_max: Tensor | None,
    softmax_sum: Tensor | None,
    attention_in: Tensor | None,
    *rest: Any,
    **options: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    call = _call(True, query, key, value, *rest, **options)
    gradients = tuple(torch.empty(operand.shape, dtype=query.dtype) for operand in (query, key, value))
    # Named, because the addresses must outlive the call.
    top, total = (None if x is None else x.contiguous() for x in (softmax_max, softmax_sum))
    call.backward(
        _array("dy", dy),
        _array("softmax_max", top),
        _array("softmax_sum", total),
        _array("attention_in", attention_in),
        *(gradient.data_ptr() for gradient in gradients),
    )
    return gradients[0], gradients[1], gradients[2]


def _forward_fake(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    tockens: bool,
    head_num: int,
    input_layout: str,
    *_: Any,
    **__: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    out, statistics = _shapes.results(query.shape, key.shape, value.shape, head_num, input_layout)
    top, total = (query.new_empty(statistics, dtype=torch.float32) for _ in range(2))
    return query.new_empty(out), top, total


def _backward_fake(
    query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return query.new_empty(query.shape), query.new_empty(key.shape), query.new_empty(value.shape)


_OPERANDS = 3  # query, key, value: what has a gradient


_Three = tuple[Tensor, Tensor, Tensor]


class _Attention(torch.autograd.Function):
    """`register_autograd` would do, if it did not spend 10 µs on each argument of the schema."""

    @staticmethod
    def forward(ctx: Any, *words: Any) -> _Three:
        output: _Three = _inference(*words)
        ctx.mark_non_differentiable(output[1], output[2])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*output, *(word for word in words if isinstance(word, Tensor)))
        ctx.words = [None if isinstance(word, Tensor) else word for word in words]
        ctx.tensors = [place for place, word in enumerate(words) if isinstance(word, Tensor)]
        return output

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        nothing = (None,) * len(ctx.words)
        if dy is None:
            return nothing
        out, top, total, *saved = ctx.saved_tensors
        words = list(ctx.words)
        for place, tensor in zip(ctx.tensors, saved):
            words[place] = tensor
        gradients = _backward(*words[:_OPERANDS], dy, top, total, out, *words[_OPERANDS:])
        wanted = (gradient if needed else None for gradient, needed in zip(gradients, ctx.needs_input_grad))
        return (*wanted, *nothing[_OPERANDS:])


def _differentiable(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether anybody wants a derivative; forward mode included, which autograd then refuses."""
    if forward_ad._current_level >= 0:
        return True
    return torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad)


def _forward_autograd(query: Tensor, key: Tensor, value: Tensor, *rest: Any) -> _Three:
    if _differentiable(query, key, value):
        result: _Three = _Attention.apply(query, key, value, *rest)  # type: ignore[no-untyped-call]
    else:
        result = _inference(query, key, value, *rest)
    return result


def _no_second_derivative(ctx: Any, *_: Any) -> None:
    raise NotImplementedError("npu_fusion_attention: got a second derivative, allowed is the first")


for _name, _kernel, _fake in (
    ("forward", _forward_kernel, _forward_fake),
    ("inference", _forward_kernel, _forward_fake),
    ("backward", _backward_kernel, _backward_fake),
):
    # Every backend, so that a tensor elsewhere is refused in our words.
    _library.impl(_name, _kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"fusion_attention::{_name}", _fake, lib=_library)
_library.impl("forward", _forward_autograd, "Autograd")
torch.library.register_autograd("fusion_attention::backward", _no_second_derivative, lib=_library)

_forward = torch.ops.fusion_attention.forward.default
_inference = torch.ops.fusion_attention.inference.default
_backward = torch.ops.fusion_attention.backward.default

# --- The functions ---


def _as_lengths(name: str, value: Any) -> Any:
    """Lists, tuples and arrays become lists of ints; tensors stay, so that tracing never looks inside."""
    return value if isinstance(value, Tensor) else _check.as_ints(name, value)


def _list(value: Any) -> Any:
    return value.tolist() if isinstance(value, Tensor) else value


def _ends(value: Any) -> Tensor | None:
    return value if value is None or isinstance(value, Tensor) else torch.tensor(value, dtype=torch.int64)


_Q_ENDS, _KV_ENDS = (_table.PLACE[name] - _table.COMMON for name in ("actual_seq_qlen", "actual_seq_kvlen"))
_LISTS = [_table.PLACE[name] - _table.COMMON for name in ("prefix", "q_start_idx", "kv_start_idx")]


def _for_operator(rest: tuple[Any, ...]) -> tuple[Any, ...]:
    """Lengths as tensors, all else that is a list as a list."""
    if not rest:
        return rest
    words = list(rest)
    for place in (_Q_ENDS, _KV_ENDS):
        words[place] = _ends(words[place])
    for place in _LISTS:
        words[place] = _list(words[place])
    return tuple(words)


def _implementation(function: _table.Function) -> Callable[..., tuple[Any, ...]]:
    version, tockens = function.version, function.tockens

    def forward(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        common: tuple[Any, ...],
        rest: tuple[Any, ...],
        seed: int = 0,
        offset: int = 0,
    ) -> tuple[Any, ...]:
        words = (query, key, value, tockens, *common, *_for_operator(rest))
        if not _differentiable(query, key, value):
            out, top, total = _inference(*words)
        elif torch.compiler.is_compiling():
            out, top, total = _forward(*words)
        else:  # what `_forward` comes to, without its two detours through Python
            out, top, total = _Attention.apply(*words)  # type: ignore[no-untyped-call]
        reserved = query.new_empty(0)
        if version == 3:
            zeros = (torch.zeros(1, dtype=torch.int64) for _ in range(2))
            return (out, top, total, reserved, *zeros)
        ends = (_list(rest[_Q_ENDS]), _list(rest[_KV_ENDS])) if rest else (None, None)
        numels = _shapes.numels(query.shape, key.shape, common[0], common[1], *ends)
        return out, top, total, reserved, seed, offset, numels

    return forward


def _gradient_implementation(function: _table.Function) -> Callable[..., tuple[Any, ...]]:
    tockens, absent = function.tockens, (None,) * (len(function.results) - _OPERANDS)

    def backward(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        common: tuple[Any, ...],
        rest: tuple[Any, ...],
        dy: Tensor,
        softmax_max: Tensor | None,
        softmax_sum: Tensor | None,
        attention_in: Tensor | None,
        seed: int | Tensor | None,
        offset: int | Tensor | None,
    ) -> tuple[Any, ...]:
        saved = dy, softmax_max, softmax_sum, attention_in
        words = (query, key, value, tockens, *common, *_for_operator(rest))
        gradients = _backward(*words[:_OPERANDS], *saved, *words[_OPERANDS:])
        return (*gradients, *absent)

    return backward


def _public(function: _table.Function) -> Any:
    make = _gradient_implementation if function.backward else _implementation
    return define(
        function,
        make(function),
        tensor=Tensor,
        tensor_name="torch tensor",
        as_lengths=_as_lengths,
        module=__name__,
    )


npu_fusion_attention: _signatures.V1[Tensor] = _public(_table.V1)
npu_fusion_attention_v2: _signatures.V2[Tensor] = _public(_table.V2)
npu_fusion_attention_v3: _signatures.V3[Tensor] = _public(_table.V3)
npu_fusion_attention_grad: _signatures.V1Grad[Tensor] = _public(_table.V1_GRAD)
npu_fusion_attention_grad_v2: _signatures.V2Grad[Tensor] = _public(_table.V2_GRAD)
npu_fusion_attention_grad_v3: _signatures.V3Grad[Tensor] = _public(_table.V3_GRAD)


def _examined(tockens: bool, words: tuple[Any, ...]) -> tuple[_core.FusionAttention, Any]:
    operands, common, rest = words[:_OPERANDS], words[_OPERANDS : _table.COMMON], words[_table.COMMON :]
    ordered: Any = (*operands, tockens, *common, *_for_operator(rest))
    return _call(False, *ordered), words


examine = examiner(_examined, Tensor, "torch tensor", __name__)
