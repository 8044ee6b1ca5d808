"""What a call means and how it would be computed, without computing it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fusion_attention import _check, _core, _table
from fusion_attention._define import define


class Explanation:
    """One call, read and checked. `str()` of it is for people; the rest is for drawing and for tests."""

    def __init__(self, call: _core.FusionAttention, keep: Any) -> None:
        self._call = call
        self._keep = keep  # the arrays behind the call's pointers

    @property
    def problem(self) -> str:
        """The one line that logs, tests and benchmarks share."""
        return self._call.text()

    @property
    def report(self) -> str:
        """The problem, the chosen kernel, why each other one was passed over, tile counts, memory."""
        return self._call.report()

    @property
    def sequences(self) -> list[dict[str, int | None]]:
        """Of each batch entry or packed sequence: where it lies, its length, the band of keys a row sees."""
        names = ("batch", "row", "rows", "key", "keys", "lo", "hi", "prefix", "block")
        return [dict(zip(names, values)) for values in self._call.sequences()]

    def visible(self, sequence: int = 0, head: int = 0) -> bytes:
        """One byte per (row, key), row-major: 1 where the row sees the key."""
        return self._call.visible(sequence, head)

    def __str__(self) -> str:
        return self.report.rstrip()


def examiner(
    make_call: Callable[..., tuple[_core.FusionAttention, Any]], tensor: type, tensor_name: str, module: str
) -> Callable[..., Explanation]:
    """A function that takes a call in the spelling of version 1 or 2 and returns its Explanation."""

    def reader(function: _table.Function) -> Callable[..., Explanation]:
        def read(query: Any, key: Any, value: Any, common: Any, rest: Any, *_: Any) -> Explanation:
            words = (query, key, value, *common, *rest)
            return Explanation(*make_call(function.tockens, words))

        return define(
            function, read, tensor=tensor, tensor_name=tensor_name, as_lengths=_check.as_ints, module=module
        )

    read_v1, read_v2 = reader(_table.V1), reader(_table.V2)
    only_v2 = {name for name, _, _ in _table.V2.parameters()} - {
        name for name, _, _ in _table.V1.parameters()
    }

    def examine(*args: Any, **kwargs: Any) -> Explanation:
        return (read_v2 if only_v2 & kwargs.keys() else read_v1)(*args, **kwargs)

    return examine
