"""onnxruntime: MultiHeadAttention, and GroupQueryAttention where it is causal or shares kv heads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper
from torch import Tensor

from ..operands import Piece
from .peer import Cannot, Peer, bounded_scores

TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}
DOMAIN = "com.microsoft"
Feeds = dict[str, Optional[np.ndarray]]


def flat(tensor: Tensor) -> np.ndarray:
    """[batch, heads, rows, channels] as [batch, rows, heads · channels]."""
    return tensor.transpose(1, 2).flatten(2).contiguous().numpy()


class OnnxRuntime(Peer):
    def __init__(self, threads: int):
        self.options = onnxruntime.SessionOptions()
        self.options.intra_op_num_threads = threads

    def refuse(self, piece: Piece) -> None:
        super().refuse(piece)
        if piece.case.dtype not in TYPES:
            raise Cannot("has no bf16 attention")
        if piece.kind not in ("", "causal"):
            bounded_scores(piece, 4, 2)

    def forward(self, piece: Piece) -> Callable[[], Any]:
        case, rows, keys = piece.case, piece.query.shape[2], piece.key.shape[2]
        decodes = rows == 1 and not piece.kind
        grouped = piece.kind == "causal" or decodes
        if grouped and case.depth != case.value_depth:
            raise Cannot("its causal operator wants Dv = D")
        words: dict[str, Any] = {"num_heads": case.heads, "scale": piece.scale}
        if not grouped:
            key, value = piece.repeated()
            feeds: Feeds = {"q": flat(piece.query), "k": flat(key), "v": flat(value)}
            bias = piece.bias()
            feeds |= {} if bias is None else {"": None, " ": None, "bias": bias.numpy()}
            return self._session(piece, "MultiHeadAttention", words, feeds)
        # In a decode the last key and value are new; they are written into the cache, in place.
        new = slice(keys - rows, keys)
        feeds = {"q": flat(piece.query), "k": flat(piece.key[:, :, new]), "v": flat(piece.value[:, :, new])}
        past: Feeds = {"past_k": piece.key.contiguous().numpy(), "past_v": piece.value.contiguous().numpy()}
        feeds |= past if decodes else {"": None, " ": None}
        feeds["seqlens"] = np.full(piece.query.shape[0], keys - 1, np.int32)
        feeds["total"] = np.array([keys], np.int32)
        return self._session(piece, "GroupQueryAttention", words | {"kv_num_heads": case.kv_heads}, feeds)

    def _session(self, piece: Piece, operator: str, words: dict[str, Any], feeds: Feeds) -> Callable[[], Any]:
        """`feeds` in the operator's order; None where an input is left out."""
        heads, kind = piece.case.heads, TYPES[piece.case.dtype]
        given = {name: x for name, x in feeds.items() if x is not None}
        results = {"out": (*given["q"].shape[:2], heads * piece.case.value_depth)}
        if operator == "GroupQueryAttention":
            results |= {"present_k": tuple(piece.key.shape), "present_v": tuple(piece.value.shape)}

        def described(name: str, shape: Any, element: int) -> Any:
            return helper.make_tensor_value_info(name, element, list(shape))

        inputs = [
            described(name, x.shape, TensorProto.INT32 if x.dtype == np.int32 else kind)
            for name, x in given.items()
        ]
        outputs = [described(name, shape, kind) for name, shape in results.items()]
        names = [name.strip() for name in feeds]
        node = helper.make_node(operator, names, list(results), domain=DOMAIN, **words)
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, 1)]
        graph = helper.make_graph([node], "attention", inputs, outputs)
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
        session = onnxruntime.InferenceSession(model, self.options, providers=["CPUExecutionProvider"])
        binding = session.io_binding()
        values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(x) for name, x in given.items()}
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
        for name in results:
            past = name.replace("present", "past")
            if past in values:
                binding.bind_ortvalue_output(name, values[past])
            else:
                binding.bind_output(name)

        def run() -> Any:
            session.run_with_iobinding(binding)
            return binding, heads, values, given  # the last two are only lent to the binding

        return run

    def tensors(self, result: Any) -> list[Tensor]:
        binding, heads = result[:2]
        out = torch.from_numpy(binding.get_outputs()[0].numpy())
        return [out.unflatten(2, (heads, -1)).transpose(1, 2)]


def create(threads: int) -> Peer:
    return OnnxRuntime(threads)
