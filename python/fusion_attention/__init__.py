"""Fused attention for CPUs under the exact Ascend interfaces.

    import fusion_attention
    out, *_ = fusion_attention.npu_fusion_attention(query, key, value, head_num, "BSND", scale=0.125)

The functions here take NumPy arrays or torch tensors and go to `fusion_attention.numpy` or
`fusion_attention.torch`, which are imported when first needed.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from fusion_attention._core import __version__, set_thread_count, thread_count
from fusion_attention._strict import strict
from fusion_attention.ascend.switch import disable, enable

if TYPE_CHECKING:
    from fusion_attention import _signatures
    from fusion_attention.inference import signatures

    npu_fusion_attention: _signatures.V1[Any]
    npu_fusion_attention_v2: _signatures.V2[Any]
    npu_fusion_attention_v3: _signatures.V3[Any]
    npu_fusion_attention_grad: _signatures.V1Grad[Any]
    npu_fusion_attention_grad_v2: _signatures.V2Grad[Any]
    npu_fusion_attention_grad_v3: _signatures.V3Grad[Any]
    npu_prompt_flash_attention: signatures.NpuPromptFlashAttention[Any]

_FUNCTIONS = (
    "npu_fusion_attention",
    "npu_fusion_attention_v2",
    "npu_fusion_attention_v3",
    "npu_fusion_attention_grad",
    "npu_fusion_attention_grad_v2",
    "npu_fusion_attention_grad_v3",
)
_INFERENCE = (
    "npu_prompt_flash_attention",
    "npu_incre_flash_attention",
    "npu_fused_infer_attention_score",
    "npu_fused_infer_attention_score_v2",
)
_MODULES = ("numpy", "torch", "mindspore", "machine")

__all__ = [
    "__version__",
    "disable",
    "draw_mask",
    "enable",
    "explain",
    "set_thread_count",
    "strict",
    "thread_count",
    *_FUNCTIONS,
    *_INFERENCE,
]


def _front(query: Any, package: str = "fusion_attention") -> Any:
    """The module that serves this kind of array; neither framework is imported for the other's sake."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(query, torch.Tensor):
        return importlib.import_module(f"{package}.torch")
    return importlib.import_module(f"{package}.numpy")


def _dispatch(name: str) -> Any:
    package = "fusion_attention.inference" if name in _INFERENCE else "fusion_attention"

    def call(*args: Any, **kwargs: Any) -> Any:
        query = args[0] if args else kwargs.get("query")
        return getattr(_front(query, package), name)(*args, **kwargs)

    call.__name__ = call.__qualname__ = name
    call.__doc__ = f"`{package}.numpy.{name}` or `{package}.torch.{name}`, by the type of query."
    return call


def explain(*args: Any, **kwargs: Any) -> None:
    """Prints how a call of npu_fusion_attention with these arguments would be computed; computes nothing.

    Takes the arguments of version 1 or of version 2. Says the problem in one line, the kernel that was chosen
    and why each other one was not, the tiles that are empty, part and full, the memory needed.
    """
    query = args[0] if args else kwargs.get("query")
    print(_front(query).examine(*args, **kwargs))


def draw_mask(*args: Any, file: Any = None, sequence: int = 0, head: int = 0, **kwargs: Any) -> str:
    """Which keys each row sees in a call of npu_fusion_attention with these arguments; computes nothing.

    Args:
        file: also writes a PNG there, with the 32 × 32 tiles that are none, part and full (needs matplotlib).
        sequence: the batch entry, or the packed sequence of TND.
        head: the query head.

    Returns:
        The mask in characters, rows downwards: ``█`` visible, ``·`` hidden, ``▒`` a cell with both.

    Six rows and keys under sparse_mode 2 (causal):

        █·····
        ██····
        ███···
        ████··
        █████·
        ██████
    """
    from fusion_attention import picture

    explanation = _front(args[0] if args else kwargs.get("query")).examine(*args, **kwargs)
    shape = explanation.sequences[sequence]
    visible = picture.matrix(explanation.visible(sequence, head), shape["rows"], shape["keys"])
    if file is not None:
        picture.png(visible, file, title=explanation.problem)
    return picture.text(visible)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"fusion_attention.{name}")
    if name in (*_FUNCTIONS, *_INFERENCE):
        function = globals()[name] = _dispatch(name)
        return function
    raise AttributeError(f"module 'fusion_attention' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES])
