"""The peers by name, strongest known first; each module is imported in the process of its peer alone."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field

from .peer import Cannot, Peer

__all__ = ["PEERS", "Cannot", "Entry", "Peer", "load"]


@dataclass(frozen=True)
class Entry:
    """Where a peer is and what its process needs."""

    says: str
    module: str
    packages: tuple[str, ...] = ()  # of requirements.txt; none: what is installed here suffices
    lifts_mkl_check: bool = False
    needs_compiler: bool = False
    modules: tuple[str, ...] = field(default=())  # imported to see whether the installation works


PEERS = {
    "torch": Entry("torch SDPA, its flash kernel for CPUs, as shipped", "torch_flash"),
    "torch+mkl": Entry("the same with MKL's vendor check lifted", "torch_flash", lifts_mkl_check=True),
    "zentorch": Entry("AMD's plugin, its operator", "zentorch", ("zentorch",), modules=("zentorch",)),
    "onednn": Entry("oneDNN Graph through torch's JIT fuser", "onednn"),
    "openvino": Entry("a model of one operator", "openvino", ("openvino",), modules=("openvino",)),
    "onnxruntime": Entry(
        *("MultiHeadAttention; GroupQueryAttention where causal", "onnxruntime"),
        packages=("onnxruntime", "onnx"),
        modules=("onnxruntime", "onnx"),
    ),
    "flex": Entry("compiled FlexAttention", "flex", needs_compiler=True),
    "jax": Entry("jax.nn.dot_product_attention, jitted", "jax", ("jax",), modules=("jax",)),
    "math": Entry("torch SDPA, its composite path", "torch_math"),
}
# Enough for the five minutes of the quick run; the others are slower everywhere or compile for long.
QUICK = ("torch", "torch+mkl", "zentorch", "onednn", "openvino")


def load(name: str, threads: int) -> Peer:
    module = importlib.import_module(f".{PEERS[name].module}", __name__)
    peer: Peer = module.create(threads)
    return peer
