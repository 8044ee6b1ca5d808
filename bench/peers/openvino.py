"""OpenVINO: a model of one operator, scaled_dot_product_attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openvino
import openvino.opset13 as ops
import torch
from torch import Tensor

from ..operands import Piece
from .peer import Peer

TYPES = {"bfloat16": openvino.Type.bf16, "float16": openvino.Type.f16, "float32": openvino.Type.f32}


def shared(tensor: Tensor, kind: openvino.Type) -> openvino.Tensor:
    """The same memory; NumPy has no bf16, so its bits travel."""
    bits = tensor.view(torch.uint16) if tensor.dtype is torch.bfloat16 else tensor
    return openvino.Tensor(bits.numpy(), list(tensor.shape), kind)


class OpenVino(Peer):
    def __init__(self, threads: int):
        self.core, self.threads = openvino.Core(), threads
        self.has_bf16 = "BF16" in self.core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")

    def precision(self, dtype: str) -> str:
        """Emulated bf16 is 40 times slower than fp32; fp16 is no precision of its CPU kernels."""
        return "bf16" if dtype == "bfloat16" and self.has_bf16 else "f32"

    def forward(self, piece: Piece) -> Callable[[], Any]:
        kind = TYPES[piece.case.dtype]
        causal = piece.kind == "causal"
        operands = [piece.query, *(x.contiguous() for x in piece.repeated())]
        bias = None if causal else piece.bias()
        operands += [] if bias is None else [bias]
        inputs = [ops.parameter(list(x.shape), kind) for x in operands]
        # Its own scale is the case's: 1 / sqrt(depth).
        out = ops.scaled_dot_product_attention(*inputs, causal=causal)
        words = {
            "INFERENCE_PRECISION_HINT": self.precision(piece.case.dtype),
            "INFERENCE_NUM_THREADS": self.threads,
        }
        request = self.core.compile_model(openvino.Model([out], inputs), "CPU", words).create_infer_request()
        result = torch.empty(*piece.query.shape[:3], piece.case.value_depth, dtype=piece.query.dtype)
        for place, operand in enumerate(operands):
            request.set_input_tensor(place, shared(operand, kind))
        request.set_output_tensor(0, shared(result, kind))

        def infer() -> list[Tensor]:
            request.infer()
            return [result, *operands]  # the operands too, since their memory is only lent to the request

        return infer

    def tensors(self, result: Any) -> list[Tensor]:
        return list(result[:1])


def create(threads: int) -> Peer:
    return OpenVino(threads)
