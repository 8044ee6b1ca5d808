"""Generation step by step over a paged cache equals the prefill of the final sequences (acceptance of the
inference interfaces), and the worked example runs.

FUSION_ATTENTION_SERVING_STEPS sets the number of steps; the acceptance run takes 512.
"""

from __future__ import annotations

import os
import runpy
from pathlib import Path

import numpy as np
import pytest
from family_draw import DTYPES
from family_options import compressed_mask
from statement_fused_infer import FusedInfer
from test_family_calls import ratio

STEPS = int(os.environ.get("FUSION_ATTENTION_SERVING_STEPS", "24"))
SEED = int(os.environ["FUSION_ATTENTION_SEED"])  # conftest.py
HEADS, KV_HEADS, DEPTH, PAGE = 8, 2, 64, 16
PROMPTS = (1, 37, 64, 130)
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "serve_paged_int8.py"


class Pages:
    """Pools that grow token by token; pages are handed out in random order, the rest holds nonsense."""

    def __init__(self, rng: np.random.Generator, dtype: str, int8: bool):
        self.int8, width = int8, -(-(max(PROMPTS) + STEPS) // PAGE)
        pages = len(PROMPTS) * width
        shape = (pages, KV_HEADS, PAGE, DEPTH)
        self.pools = [
            np.full(shape, -77, np.int8) if int8 else np.full(shape, np.nan, DTYPES[dtype]) for _ in range(2)
        ]
        self.scales = [np.full(shape[:3], np.nan, np.float32) for _ in range(2)]
        self.table = np.full((len(PROMPTS), width), -1, np.int32)
        self.free = list(rng.permutation(pages))

    def append(self, sequence: int, token: int, key: np.ndarray, value: np.ndarray) -> None:
        """One token of [Nkv, D] each."""
        if token % PAGE == 0:
            self.table[sequence, token // PAGE] = self.free.pop()
        page = self.table[sequence, token // PAGE]
        for pool, scales, row in zip(self.pools, self.scales, (key, value)):
            if self.int8:
                scale = np.abs(row.astype(np.float32)).max(-1) / 127
                scales[page, :, token % PAGE] = scale
                row = np.round(row.astype(np.float32) / scale[:, None]).astype(np.int8)
            pool[page, :, token % PAGE] = row

    def words(self) -> dict:
        words = {"block_table": self.table, "block_size": PAGE, "key": self.pools[0], "value": self.pools[1]}
        if self.int8:
            for name, scale in zip(("key", "value"), self.scales):
                words |= {f"{name}_antiquant_scale": scale, f"{name}_antiquant_mode": 5}
        return words


@pytest.mark.parametrize("stored", ["bfloat16", "int8"])
def test_decoding_over_pages_equals_the_prefill(stored):
    from fusion_attention.inference.numpy import npu_fused_infer_attention_score as attention

    rng, dtype = np.random.default_rng(SEED), "bfloat16"
    count, last = len(PROMPTS), [n + STEPS for n in PROMPTS]

    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32).astype(DTYPES[dtype])

    query = normal(count, HEADS, max(last), DEPTH)
    keys, values = (normal(count, max(last), KV_HEADS, DEPTH) for _ in range(2))
    pages = Pages(rng, dtype, stored == "int8")
    common = {
        "num_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "input_layout": "BNSD",
        "scale": DEPTH**-0.5,
    }
    for b, n in enumerate(PROMPTS):
        for token in range(n):
            pages.append(b, token, keys[b, token], values[b, token])
    decoded = np.zeros((count, HEADS, STEPS, DEPTH))
    for step in range(STEPS):
        at = [n + step for n in PROMPTS]
        for b, token in enumerate(at):
            pages.append(b, token, keys[b, token], values[b, token])
        row = np.stack([query[b, :, token : token + 1] for b, token in enumerate(at)])
        lengths = [token + 1 for token in at]
        out, _ = attention(row, **pages.words(), **common, actual_seq_lengths_kv=lengths)
        decoded[:, :, step] = out[:, :, 0]
    final = (
        common | pages.words() | {"query": query, "actual_seq_lengths": last, "actual_seq_lengths_kv": last}
    )
    final |= {"sparse_mode": 3, "atten_mask": compressed_mask(2048)}
    expected, _ = FusedInfer(final, dtype).answer()
    line = f"seed {SEED}: {STEPS} steps of {stored}"
    ratio("prefill", attention(**final)[0], expected, line)
    for b, n in enumerate(PROMPTS):
        rows = slice(n, n + STEPS)
        part = type(expected)(expected.value[b, :, rows], expected.bound[b, :, rows])
        ratio("decode", decoded[b], part, f"{line}, sequence {b}")


def test_the_worked_example():
    pytest.importorskip("torch")
    import fusion_attention

    main = runpy.run_path(str(EXAMPLE))["main"]
    try:
        said = main(["--tokens", "3", "--context", "70", "--batch", "3", "--layers", "2"])
    finally:
        fusion_attention.disable()
    assert said["error"] < 0.03
    assert said["agree"] > 0.5
