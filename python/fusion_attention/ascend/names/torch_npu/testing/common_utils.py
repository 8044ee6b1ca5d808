"""SupportedDevices: op-plugin's tests name the models they run on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def SupportedDevices(models: Any) -> Callable[[Any], Any]:
    """Runs the test whatever the model: the CPU stands in for all of them."""

    def keep(test: Any) -> Any:
        return test

    return keep
