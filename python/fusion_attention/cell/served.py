"""The cell as its own packages import it: they are MindSpore's, which is loaded first where installed."""

import importlib.util

if importlib.util.find_spec("mindspore") is not None:
    import mindspore  # noqa: F401

from fusion_attention.cell import FlashAttention  # noqa: E402

__all__ = ["FlashAttention"]
