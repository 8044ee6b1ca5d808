"""MindSpeedOpBuilder: the genuine one compiles an operator against CANN, this one hands it out."""

from __future__ import annotations

from typing import Any

from fusion_attention.ascend.mindspeed_ops import LOADED


class MindSpeedOpBuilder:
    def __init__(self, name: str) -> None:
        self.name = name

    def load(self, verbose: bool = True) -> Any:
        """The module of this name, whose functions take every argument by position."""
        if self.name not in LOADED:
            raise RuntimeError(f'MindSpeedOpBuilder: got "{self.name}", allowed are {", ".join(LOADED)}')
        return LOADED[self.name]
