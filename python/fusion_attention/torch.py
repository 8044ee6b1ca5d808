"""npu_fusion_attention on torch tensors: eager, autograd, autocast and torch.compile(fullgraph=True).

Six public functions under the exact names, orders and defaults of the Ascend documents stand on the operators
torch.ops.fusion_attention.forward and backward. Lengths reach them as tensors, so that a compiled graph does
not depend on their values.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fusion_attention import _check, _core, _shapes, _strict, _table
from fusion_attention._define import define, torch_schemas
from fusion_attention._elements import ELEMENTS, OTHER
from fusion_attention._explain import examiner
from fusion_attention._torch_direct import is_direct
from fusion_attention._torch_dropout import (
    _npu_dropout_gen_mask,
    draw_numbers,
    draw_tensors,
    npu_dropout_gen_mask,
    number_of,
    seed_tensor,
    tensor_of,
)

if TYPE_CHECKING:
    from fusion_attention import _signatures

__all__ = [
    "_npu_dropout_gen_mask",
    "examine",
    "npu_dropout_gen_mask",
    *(function.name for function in _table.FUNCTIONS),
]

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
) -> tuple[_core.FusionAttention, Tensor | None]:
    """The call, read and checked in C++, and what must outlive it: dropout_mask without gaps."""
    bits = None if dropout_mask is None else dropout_mask.contiguous()
    call = _core.FusionAttention(
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
        _array("dropout_mask", bits),
        q_start_idx,
        kv_start_idx,
        number_of("seed", seed),
        number_of("offset", offset),
        _strict.chosen(),
    )
    return call, bits


def _forward_kernel(query: Tensor, *rest: Any, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
    call, _bits = _call(False, query, *rest, **options)
    out = query.new_empty(*call.output_shape)
    top = torch.empty(*call.statistics_shape, dtype=_FLOAT32)
    total = torch.empty_like(top)
    call.forward(out.data_ptr(), top.data_ptr(), total.data_ptr())
    for note in call.notes():
        warnings.warn(note, stacklevel=2)
    return out, top, total


# The words of an operator after query, key and value.
_WORDS = ("tockens", *(argument.name for argument in _table.ARGUMENTS[3:]), "seed", "offset")


def _gradients_like(
    query: Tensor, key: Tensor, value: Tensor, pse_gradient: bool, words: dict[str, Any]
) -> Any:
    """What the seven gradients are shaped like, None for those that nobody asks for."""
    pse = words.get("pse") if pse_gradient else None
    return query, key, value, pse, words.get("query_rope"), words.get("key_rope"), words.get("sink")


def _backward_kernel(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dy: Tensor,
    softmax_max: Tensor | None,
    softmax_sum: Tensor | None,
    attention_in: Tensor | None,
    *rest: Any,
    pse_gradient: bool = False,
    **options: Any,
) -> list[Tensor]:
    words = dict(zip(_WORDS, rest), **options)
    call, _bits = _call(True, query, key, value, **words)
    gradients = [
        None if x is None else torch.empty(x.shape, dtype=x.dtype)
        for x in _gradients_like(query, key, value, pse_gradient, words)
    ]
    # Named, because the addresses must outlive the call.
    top, total = (None if x is None else x.contiguous() for x in (softmax_max, softmax_sum))
    call.backward(
        _array("dy", dy),
        _array("softmax_max", top),
        _array("softmax_sum", total),
        _array("attention_in", attention_in),
        [0 if gradient is None else gradient.data_ptr() for gradient in gradients],
    )
    return [gradient for gradient in gradients if gradient is not None]


def _check_traced(backward: bool, operands: tuple[Tensor, ...], words: dict[str, Any]) -> None:
    """Strict mode while a graph is traced: the sizes that are numbers by then. Lengths are not known yet."""
    given = [words.get(row.name, row.default) for row in _table.ARGUMENTS[_OPERANDS:]]
    tensors = (*operands, *(word for word in given if isinstance(word, Tensor)))
    sizes = [words["head_num"], *(size for tensor in tensors for size in tensor.shape)]
    if words.get("actual_seq_qlen") is not None or not all(type(size) is int for size in sizes):
        return

    def described(word: Any) -> Any:
        if not isinstance(word, Tensor):
            return word
        return 0, _ELEMENT.get(word.dtype, OTHER), tuple(word.shape), tuple(word.stride())

    operands_and_words = [described(word) for word in (*operands, *given)]
    make: Any = _core.FusionAttention
    make(backward, words["tockens"], *operands_and_words, 0, 0, True)


def _forward_fake(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    tockens: bool,
    head_num: int,
    input_layout: str,
    *rest: Any,
    **options: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    if _strict.is_on():
        words = dict(zip(_WORDS, (tockens, head_num, input_layout, *rest)), **options)
        _check_traced(False, (query, key, value), words)
    out, statistics = _shapes.results(query.shape, key.shape, value.shape, head_num, input_layout)
    top, total = (query.new_empty(statistics, dtype=torch.float32) for _ in range(2))
    return query.new_empty(out), top, total


def _backward_fake(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dy: Tensor,
    softmax_max: Tensor | None,
    softmax_sum: Tensor | None,
    attention_in: Tensor | None,
    *rest: Any,
    pse_gradient: bool = False,
    **options: Any,
) -> list[Tensor]:
    words = dict(zip(_WORDS, rest), **options)
    if _strict.is_on():
        _check_traced(True, (query, key, value), words)
    shaped = _gradients_like(query, key, value, pse_gradient, words)
    return [x.new_empty(x.shape) for x in shaped if x is not None]


_OPERANDS = 3  # query, key, value
# Where the words of the forward operator have what else can have a gradient: tockens stands before them.
_PSE, _SINK = (_table.PLACE[name] + 1 for name in ("pse", "sink"))
_ROPES = tuple(_table.PLACE[name] + 1 for name in ("query_rope", "key_rope"))
_MORE = (_PSE, *_ROPES, _SINK)
_TYPE = _table.PLACE["pse_type"] + 1


_Three = tuple[Tensor, Tensor, Tensor]


def _infer(*words: Any) -> _Three:
    """The operator `inference`, by the shortest way."""
    result: _Three = _forward_kernel(*words) if is_direct(words) else _inference(*words)
    return result


class _Attention(torch.autograd.Function):
    """`register_autograd` would do, if it did not spend 10 µs on each argument of the schema."""

    @staticmethod
    def forward(ctx: Any, *words: Any) -> _Three:
        output = _infer(*words)
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
        needed = ctx.needs_input_grad
        places = [place for place in _MORE if place < len(words) and words[place] is not None]
        if _PSE in places and not needed[_PSE]:
            places.remove(_PSE)
        saved = dy, top, total, out
        ordered = (*words[:_OPERANDS], *saved, *words[_OPERANDS:])
        backward = _backward_kernel if is_direct(ordered) and not torch.is_grad_enabled() else _backward
        gradients = backward(*ordered, pse_gradient=_PSE in places)
        results: list[Tensor | None] = [None] * len(words)
        for place, gradient in zip((*range(_OPERANDS), *places), gradients):
            results[place] = gradient if needed[place] else None
        return tuple(results)


def _differentiable(*words: Any) -> bool:
    """Whether anybody wants a derivative; forward mode included, which autograd then refuses."""
    if forward_ad._current_level >= 0:
        return True
    if not torch.is_grad_enabled():
        return False
    if words[0].requires_grad or words[1].requires_grad or words[2].requires_grad:
        return True
    return len(words) > _PSE and any(
        words[place] is not None and words[place].requires_grad for place in _MORE if place < len(words)
    )


def _forward_autograd(query: Tensor, key: Tensor, value: Tensor, *rest: Any) -> _Three:
    if _differentiable(query, key, value, *rest):
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


_KEEP, _BITS = (_table.PLACE[name] - _table.COMMON for name in ("keep_prob", "dropout_mask"))


def _is_random(rest: tuple[Any, ...]) -> bool:
    """Whether bits come from a seed. What no probability is, is refused later."""
    return bool(rest) and 0 < rest[_KEEP] < 1 and rest[_BITS] is None


def _implementation(function: _table.Function) -> Callable[..., tuple[Any, ...]]:
    version, tockens = function.version, function.tockens

    def forward(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        common: tuple[Any, ...],
        rest: tuple[Any, ...],
        seed: Any = 0,
        offset: Any = 0,
    ) -> tuple[Any, ...]:
        words: tuple[Any, ...] = (query, key, value, tockens, *common, *_for_operator(rest))
        if _is_random(rest):
            if version == 3:
                seed, offset = draw_tensors()
                words = (*words, seed, offset)
            else:
                if seed == 0 and offset == 0:
                    seed, offset = draw_numbers()
                words = (*words, seed_tensor("seed", seed), seed_tensor("offset", offset))
        if not _differentiable(*words):
            out, top, total = _infer(*words)
        elif torch.compiler.is_compiling():
            out, top, total = _forward(*words)
        else:  # what `_forward` comes to, without its two detours through Python
            out, top, total = _Attention.apply(*words)  # type: ignore[no-untyped-call]
        reserved = query.new_empty(0)
        if version == 3:
            pair = (x if isinstance(x, Tensor) else tensor_of(0) for x in (seed, offset))
            return (out, top, total, reserved, *pair)
        ends = (_list(rest[_Q_ENDS]), _list(rest[_KV_ENDS])) if rest else (None, None)
        numels = _shapes.numels(query.shape, key.shape, common[0], common[1], *ends)
        return out, top, total, reserved, seed, offset, numels

    return forward


_GRADIENTS = ("dq", "dk", "dv", "dpse", "dq_rope", "dk_rope", "dsink")


def _more(words: tuple[Any, ...]) -> dict[str, Any]:
    """The optional words by name."""
    return dict(zip(_WORDS, words[_OPERANDS:]))


def _gradient_implementation(function: _table.Function) -> Callable[..., tuple[Any, ...]]:
    tockens, results = function.tockens, function.results

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
        words: tuple[Any, ...] = (query, key, value, tockens, *common, *_for_operator(rest))
        if _is_random(rest):
            pair = (("seed", seed), ("offset", offset))
            words = (*words, *(seed_tensor(name, number) for name, number in pair))
        shaped = _gradients_like(query, key, value, bool(rest) and words[_TYPE] < 2, _more(words))
        saved = dy, softmax_max, softmax_sum, attention_in
        pse_gradient = shaped[3] is not None
        gradients = iter(_backward(*words[:_OPERANDS], *saved, *words[_OPERANDS:], pse_gradient=pse_gradient))
        filled = [None if x is None else next(gradients) for x in shaped]
        return tuple(filled[_GRADIENTS.index(name)] for name in results)

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
# Version 2 for interfaces whose gradient is given the mask itself.
gradient_with_mask: Any = _public(replace(_table.V2_GRAD, keywords=f"{_table.V2_GRAD.keywords} dropout_mask"))


def _examined(tockens: bool, words: tuple[Any, ...]) -> tuple[_core.FusionAttention, Any]:
    operands, common, rest = words[:_OPERANDS], words[_OPERANDS : _table.COMMON], words[_table.COMMON :]
    ordered: Any = (*operands, tockens, *common, *_for_operator(rest))
    call, bits = _call(False, *ordered)
    return call, (words, bits)


examine = examiner(_examined, Tensor, "torch tensor", __name__)
