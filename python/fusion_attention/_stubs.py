"""`python -m fusion_attention._stubs` writes `_signatures.py` from the table; a test compares."""

from __future__ import annotations

from pathlib import Path

from fusion_attention._define import signature
from fusion_attention._table import FUNCTIONS, Argument, Function

FILE = Path(__file__).with_name("_signatures.py")
HEADER = '''\
"""The types of the public functions, one protocol each; Array is torch.Tensor or numpy.ndarray.

Written by `python -m fusion_attention._stubs` from the table; do not edit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

Array = TypeVar("Array")
'''
_KINDS = {"tensor": "Array", "symint": "int", "ints": "Sequence[int] | Array"}


def class_name(function: Function) -> str:
    return f"V{function.version}{'Grad' if function.backward else ''}"


def _annotated(argument: Argument, name: str) -> str:
    kind = _KINDS.get(argument.kind, argument.kind)
    return f"{name}: {kind}{' | None' if argument.optional else ''}"


def _results(function: Function) -> str:
    absent = {"dpse", "dq_rope", "dk_rope", "dsink"}
    numbers = {"seed", "offset", "numels"} if function.version < 3 else set()
    kinds = ("None" if r in absent else "int" if r in numbers else "Array" for r in function.results)
    return f"tuple[{', '.join(kinds)}]"


def text() -> str:
    parts = [HEADER]
    for function in FUNCTIONS:
        parameters = signature(function, _annotated).replace(", ", ",\n        ")
        parts.append(
            f"\n\nclass {class_name(function)}(Protocol[Array]):\n"
            f'    """{function.name}"""\n\n'
            f"    def __call__(\n        self,\n        {parameters},\n    ) -> {_results(function)}: ...\n"
        )
    return "".join(parts).replace("=''", '=""').replace("= ''", '= ""')


if __name__ == "__main__":
    FILE.write_text(text())
