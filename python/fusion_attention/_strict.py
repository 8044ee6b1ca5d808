"""Strict mode: the switch, and the check of interfaces whose words are read in Python.

The table of limits and its sentences are in C++ (`src/api/limits.cc`), behind which every front ends.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from fusion_attention import _check, _core

_chosen: ContextVar[bool | None] = ContextVar("fusion_attention.strict", default=None)

chosen = _chosen.get  # None: FUSION_ATTENTION_STRICT decides


def is_on() -> bool:
    """Whether calls of this thread or task are refused where the documents do not support them."""
    return _core.is_strict(_chosen.get())


class strict:
    """Refuses what the documents of the hardware do not support, with the documented limit in the sentence.

        with fusion_attention.strict():   # in this block
            train_step()
        fusion_attention.strict(True)     # from here on, in this thread or asyncio task
        fusion_attention.strict(False)    # off, whatever the environment says

    FUSION_ATTENTION_STRICT=1 does the same for the whole process; a choice made here goes before it. Threads
    that are started later begin without a choice. Compiled graphs ask when they run, and when they are traced
    if their sizes are fixed by then.

    Args:
        on: whether to refuse.

    Raises:
        TypeError: `on` is no bool.
    """

    def __init__(self, on: bool = True) -> None:
        self._on = _check.as_bool("on", on)
        self._before = _chosen.get()
        _chosen.set(self._on)

    def __enter__(self) -> strict:
        _chosen.set(self._on)
        return self

    def __exit__(self, *_: object) -> None:
        _chosen.set(self._before)


def refuse_undocumented(
    interface: str,
    query: Any,
    key: Any,
    value: Any,
    head_num: int,
    input_layout: str,
    *,
    backward: bool = False,
    atten_mask: Any = None,
    pse: Any = None,
    pse_type: int = 1,
    sparse_mode: int = 0,
    prefix: Any = None,
    actual_seq_qlen: Any = None,
    actual_seq_kvlen: Any = None,
) -> None:
    """Under strict mode, checks a call against the limits of its own document.

    For interfaces that hand their words on to npu_fusion_attention, whose limits are checked there: one line
    before anything is converted. Tensors are (address, element, shape, strides in elements), as the fronts'
    `_array` makes them.

    Raises:
        RuntimeError: the argument, what was given, the documented limit and where it is documented.
    """
    if not is_on():
        return
    _core.refuse_undocumented(
        interface,
        backward,
        query,
        key,
        value,
        head_num,
        input_layout,
        atten_mask,
        pse,
        pse_type,
        sparse_mode,
        prefix,
        actual_seq_qlen,
        actual_seq_kvlen,
    )
