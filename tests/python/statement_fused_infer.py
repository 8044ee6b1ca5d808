"""What the documents say npu_fused_infer_attention_score computes, element by element, in float64.

From the documents alone (inference-ops A.4 to A.7 and B, with the rulings above them). A call is a dictionary
in the spelling of version 1, with `learnable_sink` of version 2 beside it. Incre flash attention is the call
whose query has one row and whose lengths are those of the keys. Stored keys: statement_cache.py.
"""

from __future__ import annotations

import numpy as np
from statement_arithmetic import Answer, Pairs, forward_one, score_pairs
from statement_cache import (
    PACKED,
    by_head,
    from_ends,
    heads_of,
    layouts,
    left,
    per_sequence,
    read,
    sequences,
    stored,
)
from statement_mask import INT_MAX, shown_by_mode

HALF = 2.0**-11


class FusedInfer:
    """One call, answered by the documents."""

    def __init__(self, call: dict, dtype: str):
        self.call, self.dtype = call, dtype
        self.layout, self.output = layouts(call["input_layout"])
        self.packed = self.layout in PACKED
        self.heads, self.kv_heads = heads_of(call)
        query = by_head(self._query(), self.layout, self.heads)
        if call.get("query_rope") is not None:
            rope = by_head(np.asarray(call["query_rope"], np.float64), self.layout, self.heads)
            query = np.concatenate([query, rope], -1)
        self.shape = query.shape  # [B, N, Sq, D], or [1, N, T, D]
        self.q_first, self.q_lens = self._rows()
        entries = [0] * len(self.q_lens) if self.packed else range(len(self.q_lens))
        self.q = [query[b][:, a : a + n] for b, a, n in zip(entries, self.q_first, self.q_lens)]
        self.k, self.v = stored(call, dtype)

    def _query(self) -> np.ndarray:
        """Numbers of `dtype`; an int8 query with scales is read as stored keys are (our definition)."""
        query, scale = np.asarray(self.call["query"]), self.call.get("dequant_scale_query")
        if scale is None:
            return query.astype(np.float64)
        by_row = query.reshape(*scale.shape[: 2 if self.packed else 3], -1)
        return read(by_row, (scale.reshape(*by_row.shape[:-1], 1), np.float32(0)), self.dtype).reshape(
            query.shape
        )

    @property
    def single(self) -> bool:
        """The documents' Q_S = 1 without rope: mode, tokens and the query's lengths then say nothing."""
        return not self.packed and self.shape[2] == 1 and self.call.get("query_rope") is None

    def _rows(self) -> tuple[list[int], list[int]]:
        given = self.call.get("actual_seq_lengths")
        if self.packed:
            first, counts = zip(*from_ends(given))
            return list(first), list(counts)
        rows, count = self.shape[2], sequences(self.call)
        if self.single or given is None:
            return [0] * count, [rows] * count
        lens = per_sequence(given, count, rows)
        padding = self.call.get("query_padding_size")
        if padding is None or rows == 1:
            return [0] * count, lens
        end = rows - max(int(np.asarray(padding).reshape(-1)[0]), 0)
        return [end - n for n in lens], lens

    def _mask(self, b: int) -> np.ndarray:
        """True where atten_mask hides, [Lq, Lk] of the padded tensors' own rows and keys."""
        hidden = np.asarray(self.call["atten_mask"]) != 0
        if hidden.ndim == 2 and self.single:  # [B, Skv]
            hidden = hidden[:, None]
        hidden = hidden.reshape(-1, *hidden.shape[-2:])
        hidden = hidden[b if len(hidden) > 1 else 0]
        return self._window(hidden, b)

    def _window(self, plane: np.ndarray, b: int) -> np.ndarray:
        """The rows and keys that a sequence has of a plane over the padded tensors."""
        first, keys = self._key_first(b), self.k[b].shape[1]
        return plane[..., self.q_first[b] :, :][..., : self.q_lens[b], first : first + keys]

    def _key_first(self, b: int) -> int:
        padding = left(self.call)
        if padding is None or self.call.get("block_table") is not None:
            return 0
        length = self.call["key"].shape[2 if self.layout == "BNSD" else 1]
        return length - padding - self.k[b].shape[1] if self.k[b].shape[1] else 0

    def _tree(self, b: int) -> np.ndarray:
        """keep: all that came before, and of the last Lq keys what the tree shows."""
        rows, keys = self.q_lens[b], self.k[b].shape[1]
        mask = np.asarray(self.call["atten_mask"])
        if mask.ndim == 1:
            first = sum(n * n for n in self.q_lens[:b])
            mask = mask[first : first + rows * rows].reshape(1, rows, rows)
        shown = mask[b if mask.shape[0] > 1 else 0][:rows, :rows] == 0
        return np.concatenate([np.ones((rows, keys - rows), bool), shown], 1)

    def kept(self, b: int) -> np.ndarray:
        """[Lq, Lk], the prefix among the keys."""
        call, rows, keys = self.call, self.q_lens[b], self.k[b].shape[1]
        mode, keep = call.get("sparse_mode", 0), np.ones((rows, keys), bool)
        if call.get("atten_mask") is None or (self.single and mode > 1):
            return keep
        if mode == 9:
            return self._tree(b)
        pre, post = call.get("pre_tokens", INT_MAX), call.get("next_tokens", INT_MAX)
        if mode < 2:
            keep &= ~self._mask(b)
        padded = left(call) is not None or (
            call.get("query_padding_size") is not None and call.get("actual_seq_lengths") is not None
        )
        if mode == 0 and (self.single or padded):
            return keep
        return keep & shown_by_mode(mode, rows, keys, pre, post)

    def _pairs(self, b: int) -> Pairs:
        group, call = self.heads // self.kv_heads, self.call
        bias = call.get("pse_shift")
        if bias is not None:
            bias = np.asarray(bias, np.float64)
            bias = self._window(bias[b if bias.shape[0] > 1 else 0], b)
        keep = np.broadcast_to(self.kept(b), (self.heads, *self.kept(b).shape))
        scale = call.get("scale", 1.0)
        pairs = score_pairs(self.q[b], np.repeat(self.k[b], group, 0), bias, False, scale, keep, 1.0)
        if self.dtype == "float16" and call.get("inner_precise", 0) % 2 == 1:  # ruling 18: Q·Kᵀ in fp16
            dot = np.abs(self.q[b] @ np.repeat(self.k[b], group, 0).transpose(0, 2, 1))
            pairs.error = pairs.error + np.where(keep, abs(scale) * (HALF * dot + 2.0**-25), 0)
        return pairs

    def answer(self) -> tuple[Answer, Answer]:
        """attention_out and softmax_lse: [B, N, Sq, 1], packed [T, N, 1], +inf where a row sees nothing."""
        sink = self.call.get("learnable_sink")
        sink = None if sink is None else np.asarray(sink, np.float64)
        batches, heads, rows, _ = self.shape
        depth = self.v[0].shape[-1] if self.v else 0
        out = [np.zeros((batches, heads, rows, depth)) for _ in range(2)]
        lse = [np.full((batches, heads, rows), np.inf), np.zeros((batches, heads, rows))]
        for b, (first, n) in enumerate(zip(self.q_first, self.q_lens)):
            with np.errstate(all="ignore"):
                value = np.repeat(self.v[b], self.heads // self.kv_heads, 0)
                pairs = self._pairs(b)
                o, top, total = forward_one(pairs, value, sink, self.dtype)
                empty = ~pairs.keep.any(-1) if sink is None else np.zeros(top.value.shape, bool)
                empty |= top.value == -np.finfo(np.float32).max
                logs = np.where(empty, np.inf, top.value + np.log(total.value))
                off = top.bound + total.bound / total.value + 2.0**-22 * (1 + np.abs(logs))
            at = (0 if self.packed else b, slice(None), slice(first, first + n))
            for into, part in zip((*out, *lse), (o.value, o.bound, logs, np.where(empty, 0, off))):
                into[at] = part
        return Answer(*(self._arranged(x) for x in out)), Answer(*(self._lse(x) for x in lse))

    def _lse(self, x: np.ndarray) -> np.ndarray:
        return x[0].T[..., None] if self.packed else x[..., None]

    def _arranged(self, x: np.ndarray) -> np.ndarray:
        if self.packed:
            return x[0] if self.output == "NTD" else x[0].transpose(1, 0, 2)
        order = {"BNSD": (0, 1, 2, 3), "NBSD": (1, 0, 2, 3)}.get(self.output, (0, 2, 1, 3))
        x = x.transpose(order)
        return x.reshape(*x.shape[:2], -1) if self.output == "BSH" else x
