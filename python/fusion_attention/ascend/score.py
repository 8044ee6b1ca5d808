"""The result of npu_flash_attention: a list of one tensor that may be used as that tensor."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor


class Score(list[Tensor]):
    """[attention_score], as the operator returns it, and at once the tensor, as its document uses it.

    What a list has is the list's: `score[0]`, `len(score)`, iteration, `==`. All else is the
    tensor's: torch functions, arithmetic, `score.shape`, `score.backward()`.

    Attributes:
        softmax_max, softmax_sum: what npu_flash_attention_grad takes, float32 [B, N, Sq, 8].
        seed, offset: of the dropout bits, for npu_flash_attention_grad.
    """

    def __init__(self, out: Tensor, softmax_max: Tensor, softmax_sum: Tensor, seed: int, offset: int) -> None:
        super().__init__([out])
        self.softmax_max = softmax_max
        self.softmax_sum = softmax_sum
        self.seed = seed
        self.offset = offset

    def backward(self, gradient: Tensor | None = None, **options: Any) -> None:
        """As a tensor's, but without a gradient every element counts once: the document calls it so."""
        out: Any = self[0]
        out.backward(torch.ones_like(out) if gradient is None else gradient, **options)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what Python asks of a type is answered as a list
            raise AttributeError(f"Score has no attribute {name!r}")
        return getattr(self[0], name)

    def __reduce__(self) -> tuple[Any, ...]:
        return Score, (self[0], self.softmax_max, self.softmax_sum, self.seed, self.offset)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*map(plain, args), **{name: plain(value) for name, value in (kwargs or {}).items()})


def plain(value: Any) -> Any:
    """The tensor of a Score, anything else as it is; inside lists and tuples too."""
    if isinstance(value, Score):
        return value[0]
    if type(value) in (list, tuple):
        return type(value)(plain(item) for item in value)
    return value


def _straight(name: str) -> Any:
    def method(self: Score, *others: Any) -> Any:
        return getattr(operator, name)(self[0], *map(plain, others))

    return method


def _reflected(name: str) -> Any:
    def method(self: Score, other: Any) -> Any:
        return getattr(operator, name)(other, self[0])

    return method


# Python looks operators up in the type, where __getattr__ does not reach.
for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul"):
    setattr(Score, f"__{_name}__", _straight(_name))
    setattr(Score, f"__r{_name}__", _reflected(_name))
    setattr(Score, f"__i{_name}__", _straight(_name))  # a new tensor; a list would grow
for _name in ("neg", "abs", "lt", "le", "gt", "ge"):
    setattr(Score, f"__{_name}__", _straight(_name))
