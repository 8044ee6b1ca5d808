"""Types of scalar arguments. Everything else about them is checked in C++, in the same words."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any, NoReturn

from fusion_attention._elements import ELEMENTS

_INT64 = 1 << 63


def refuse_type(name: str, given: Any, allowed: str) -> NoReturn:
    raise TypeError(f"{name}: got {type(given).__name__}, allowed is {allowed}")


def as_int(name: str, value: Any) -> int:
    try:
        number = operator.index(value)
    except (TypeError, ValueError, RuntimeError):
        refuse_type(name, value, "an int")
    if not -_INT64 <= number < _INT64:
        raise RuntimeError(f"{name}: got {number}, allowed is a 64-bit integer")
    return number


def as_float(name: str, value: Any) -> float:
    if isinstance(value, (str, bytes)) or not hasattr(value, "__float__"):
        refuse_type(name, value, "a float")
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        refuse_type(name, value, "a float")


def as_str(name: str, value: Any) -> str:
    if not isinstance(value, str):
        refuse_type(name, value, "a str")
    return str(value)


_TORCH_NUMBERS = {1: "int8", 5: "float16", 6: "float32", 15: "bfloat16"}


def as_dtype(name: str, value: Any) -> int:
    """C++'s number of a dtype of torch or NumPy, or of torch's number of one."""
    said = _TORCH_NUMBERS.get(value, "") if isinstance(value, int) else getattr(value, "__name__", str(value))
    known = said.rpartition(".")[2]
    if known not in ELEMENTS:
        refuse_type(name, value, "a dtype, or torch's number of int8, float16, float32 or bfloat16")
    return ELEMENTS[known]


def as_bool(name: str, value: Any) -> bool:
    return bool(as_int(name, value))


def as_ints(name: str, values: Iterable[Any]) -> list[int]:
    """A list, a tuple or a 1-D integer array as a list of Python ints; copied here, once."""
    if isinstance(values, (str, bytes, dict)):
        refuse_type(name, values, "a list of ints")
    try:
        items = list(values)
    except TypeError:
        refuse_type(name, values, "a list of ints")
    return [as_int(name, item) for item in items]
