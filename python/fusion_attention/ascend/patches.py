"""Reversible changes to other people's modules: each is noted when made and undone in reverse order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_MISSING = object()


class Patches:
    """A list of changes; `undo()` leaves every owner as it was found."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], Any]] = []

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Sets an attribute. The descriptor itself is kept, so that a staticmethod comes back as one."""
        before = vars(owner).get(name, _MISSING)
        setattr(owner, name, value)
        if before is _MISSING:
            self._undo.append(lambda: delattr(owner, name))
        else:
            self._undo.append(lambda: setattr(owner, name, before))

    def put(self, table: dict[Any, Any], key: Any, value: Any) -> None:
        """Sets an entry of a dictionary, such as sys.modules."""
        before = table.get(key, _MISSING)
        table[key] = value
        if before is _MISSING:
            self._undo.append(lambda: table.pop(key, None))
        else:
            self._undo.append(lambda: table.__setitem__(key, before))

    def insert_first(self, items: list[Any], value: Any) -> None:
        """Puts an item in front of a list that others also change."""
        self._insert(items, 0, value)

    def insert_last(self, items: list[Any], value: Any) -> None:
        """Puts an item behind those of a list that others also change."""
        self._insert(items, len(items), value)

    def on_undo(self, action: Callable[[], Any]) -> None:
        """Notes how to undo a change that was made elsewhere."""
        self._undo.append(action)

    def undo(self) -> None:
        while self._undo:
            self._undo.pop()()

    def _insert(self, items: list[Any], place: int, value: Any) -> None:
        items.insert(place, value)
        self._undo.append(lambda: items.remove(value) if value in items else None)
