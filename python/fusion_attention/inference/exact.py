"""Types as MindSpore's operators check them: a bool is no int, and nothing is converted."""

from __future__ import annotations

import numbers
from typing import Any

from fusion_attention import _check, _strict


def as_int(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        _check.refuse_type(name, value, "an int")
    return _check.as_int(name, value)


def as_float(name: str, value: Any) -> float:
    """An int is one, too (ruling 38), but under strict mode."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        _check.refuse_type(name, value, "a float")
    if isinstance(value, numbers.Integral) and _strict.is_on():
        _check.refuse_type(name, value, "a float (strict mode; seed 004, parameters)")
    return _check.as_float(name, value)


as_str, as_bool = _check.as_str, _check.as_bool


def as_ints(name: str, values: Any) -> list[int]:
    """A list, a tuple or a 1-D integer array."""
    shape = getattr(values, "shape", None)
    if shape is not None and len(shape) != 1:
        raise ValueError(f"{name}: got an array of rank {len(shape)}, allowed is rank 1")
    return _check.as_ints(name, values)
