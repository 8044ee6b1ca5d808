"""The cell as a plain class, for NumPy arrays and torch tensors."""

from __future__ import annotations

import sys
from typing import Any

from fusion_attention.cell.words import Words, checked, sharded


def attend(words: Words, query: Any, *rest: Any) -> Any:
    """By the type of query; neither framework is imported for the other's sake."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(query, torch.Tensor):
        from fusion_attention.cell import torch as front

        return front.attention(words, query, *rest)
    from fusion_attention.cell import numpy as arrays

    seed = arrays.draw_seed() if words.dropout_rate > 0 else 0
    return arrays.forward(words, (query, *rest), seed)[0]


class FlashAttention:
    """Attention over blocks of keys: softmax(query·keyᵀ / √head_dim + alibi − 10000·mask)·value.

    Rows and keys are counted in tiles of T = 128, or 64 for "wukong". The rows of tile t see the keys of
    tiles t − prev_block_num … t + next_block_num.

    Args:
        head_dim: D of query, key and value.
        dropout_rate: share of the probabilities that are dropped, [0, 1); the rest is divided by
            1 − dropout_rate. In force in every call: there is no evaluation mode.
        prev_block_num: key tiles before the diagonal that a row sees, 0 or more.
        next_block_num: key tiles after the diagonal that a row sees, 0 or more.
        tiling_stgy_name: "sparse", "xunfei" (the same) or "wukong".
        dp: shards of the batch: B is a multiple. All shards are computed by this process.
        mp: shards of the heads: N is a multiple.
        have_attention_mask_batch: whether the first axis of attention_mask is the batch; else it is 1 or
            missing.
        alibi: whether alibi_mask is given.

    The call takes:
        query, key, value: [B, N, S, D], float16, bfloat16 or float32, all alike; key and value may be of
            another length than query.
        attention_mask: (1 or B, Sq, Skv) for every row and key, or (1, T, T) for the tiles of the diagonal
            alone; 1 masks, any other number adds −10000 times as much. float, bool, uint8 or int8. None: no
            mask.
        alibi_mask: (1 or B, N, 1, Skv), any float: added to the scaled scores.

    Returns:
        [B, N, Sq, D] of query's dtype.

    Raises:
        TypeError: an argument of the wrong type, a tensor of the wrong dtype.
        ValueError: a value or a shape outside the above.

    Warns:
        UserWarning: a (1, T, T) mask with next_block_num > 0: the tiles after the diagonal stay open.

    Source: acctransformer, train/flash_attention/README.md.
    """

    def __init__(
        self,
        head_dim: int,
        dropout_rate: float = 0.0,
        prev_block_num: int = 65536,
        next_block_num: int = 65536,
        tiling_stgy_name: str = "sparse",
        dp: int = 1,
        mp: int = 1,
        have_attention_mask_batch: bool = True,
        alibi: bool = False,
    ) -> None:
        self._words = checked(
            head_dim, dropout_rate, prev_block_num, next_block_num, tiling_stgy_name, dp, mp,
            have_attention_mask_batch, alibi,
        )  # fmt: skip

    def construct(
        self, query: Any, key: Any, value: Any, attention_mask: Any = None, alibi_mask: Any = None
    ) -> Any:
        return attend(self._words, query, key, value, attention_mask, alibi_mask)

    __call__ = construct

    def shard(self, in_strategy: Any = None, out_strategy: Any = None) -> FlashAttention:
        """Sets dp and mp from the strategy of query, ((dp, mp, 1, 1), …); out_strategy follows from it."""
        self._words = sharded(self._words, in_strategy)
        return self
