"""When torch's dispatcher has nothing to add to a call of ours."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_modes = torch._C._len_torch_dispatch_stack
_function_modes = torch._C._len_torch_function_stack
_transform = torch._C._functorch.peek_interpreter_stack
_trace = torch._C._get_tracing_state
_profiles = torch._C._autograd._profiler_enabled
_ORDINARY = frozenset((Tensor, torch.nn.Parameter))
_PLAIN = frozenset((type(None), bool, int, float, str, list))


def is_direct(words: tuple[Any, ...]) -> bool:
    """Whether the dispatcher would hand these to our kernel as they are: ordinary tensors, and no mode,
    transform, trace or profiler. It takes longer on the way than a small problem does."""
    if torch.compiler.is_compiling() or _modes() or _function_modes():
        return False
    if _transform() is not None or _trace() is not None or _profiles():
        return False
    for word in words:  # by type: isinstance() asks Tensor's own class of classes each time
        kind = type(word)
        if kind in _ORDINARY:
            if word.is_neg() or word._is_zerotensor():
                return False
        elif kind not in _PLAIN:
            return False
    return True
