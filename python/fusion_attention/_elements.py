"""The numbers of C++'s `enum class Element`, by the names that NumPy and torch share."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

ELEMENTS = {
    name: code
    for code, name in enumerate(
        ("float32", "float16", "bfloat16", "bool", "uint8", "int8", "int32", "int64", "float64", "uint64")
    )
}
OTHER = len(ELEMENTS)


@lru_cache(maxsize=64)
def of_array(dtype: Any) -> int:
    """The number of a NumPy dtype. Remembered: NumPy makes a dtype's name anew each time, in 5 µs."""
    return ELEMENTS.get(dtype.name, OTHER) if dtype.isnative else OTHER
