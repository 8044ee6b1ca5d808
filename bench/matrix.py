"""The matrix: forward (A), decode (B), training (C), small calls (D) and the goals (G), a line per shape.

Where a size is smaller than the model's, its note says so; the reason is always that one call on one thread,
or a peer's mask or matrix of scores, would take more than about 10 s or 4 GiB.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from .case import Case

Words = dict[str, Any]  # of Case

BF16, FP16, FP32 = "bfloat16", "float16", "float32"
# 16 documents of 128 to 4,096 tokens, 16,384 together; 8 sequences of the goal table, 8,192 together.
DOCUMENTS = (4096, 2048, 2048, 1536, 1024, 1024, 896, 768, 640, 512, 512, 384, 384, 256, 128, 128)
SEQUENCES = (2048, 1536, 1280, 1024, 896, 640, 512, 256)
RAGGED = (32768, 16384, 8192, 8192, 4096, 4096, 2048, 1024)


def each(id: str, model: str, *, dtypes: tuple[str, ...] = (BF16,), **words: Any) -> Iterator[Case]:
    """One case per dtype and value of every word that is a list."""
    name = next((name for name, value in words.items() if isinstance(value, list)), "")
    if name:
        for value in words.pop(name):
            yield from each(id, model, dtypes=dtypes, **words, **{name: value})
    else:
        for dtype in dtypes:
            yield Case(id, model, dtype, **words)


def forward() -> Iterator[Case]:
    every = (BF16, FP16, FP32)
    llama: Words = {"heads": 32, "kv_heads": 8, "depth": 128}
    yield from each("A1", "Llama-3-8B", dtypes=every, rows=[512, 2048], mask="causal", **llama)
    yield from each("A1", "Llama-3-8B", rows=8192, mask="causal", **llama)
    one_group = "one group of 4 heads instead of 8"
    yield from each(
        "A1", "Llama-3-8B", rows=32768, heads=4, kv_heads=1, depth=128, mask="causal", note=one_group
    )
    yield from each("A2", "Qwen2.5-7B", rows=[2048, 8192], heads=28, kv_heads=4, depth=128, mask="causal")
    yield from each(
        "A3",
        "Qwen2.5-0.5B",
        dtypes=(BF16, FP32),
        rows=[512, 4096],
        heads=14,
        kv_heads=2,
        depth=64,
        mask="causal",
    )
    yield from each("A4", "Gemma-3 local", rows=8192, heads=8, kv_heads=4, depth=256, mask="window:1024")
    no_cap = "without the softcap, which no Ascend interface has"
    yield from each("A5", "Gemma-2", rows=4096, heads=16, kv_heads=8, depth=256, mask="causal", note=no_cap)
    yield from each("A6", "gpt-oss", rows=4096, heads=64, kv_heads=8, depth=64, mask="window:128", sink=True)
    yield from each("A7", "MLA prefill", rows=512, heads=128, depth=192, value_depth=128, mask="causal")
    few = "16 heads instead of 128"
    yield from each(
        "A7", "MLA prefill", rows=[2048, 8192], heads=16, depth=192, value_depth=128, mask="causal", note=few
    )
    padding = tuple(384 - 8 * i for i in range(32))
    yield from each(
        *("A8", "BERT-large"), dtypes=(FP32, BF16), batch=32, heads=16, rows=384, depth=64, mask="padding",
        lengths=padding, note="int8 has an algorithm and roundings of its own: not in this table",
    )  # fmt: skip
    yield from each("A8", "MiniLM", dtypes=(FP32, BF16), batch=64, heads=12, rows=256, depth=32)
    one = "B=1 instead of 8: peers compute the full square"
    yield from each(
        "A9", "ModernBERT", dtypes=(BF16, FP32), heads=12, rows=8192, depth=64, mask="around:64", note=one
    )
    both: Words = {"dtypes": (FP32, BF16), "batch": 8, "heads": 16}
    yield from each("A10", "ViT-L/14", rows=[257, 577], depth=64, **both)
    yield from each("A10", "SigLIP-so400m", rows=729, depth=72, **both)
    for rows, depth in ((4096, 40), (1024, 80), (256, 160)):
        sd: Words = {"dtypes": (FP32, BF16, FP16), "batch": 2, "heads": 8, "rows": rows, "depth": depth}
        yield from each("A11", "Stable Diffusion 1.5", **sd)
        yield from each("A11", "Stable Diffusion 1.5 cross", keys=77, **sd)
    yield from each("A12", "SDXL", heads=10, rows=4096, depth=64)
    yield from each("A12", "Flux", heads=24, rows=4608, depth=128)
    whisper: Words = {"dtypes": (FP32, BF16), "heads": 20, "depth": 64}
    yield from each("A13", "Whisper-large", rows=1500, **whisper)
    yield from each("A13", "Whisper-large cross", rows=[1, 448], keys=1500, **whisper)
    yield from each(
        *("A14", "packed documents"), heads=8, rows=max(DOCUMENTS), depth=128, mask="causal", layout="TND",
        lengths=DOCUMENTS,
    )  # fmt: skip
    yield from each("A15", "PaliGemma", rows=1280, heads=8, kv_heads=1, depth=256, mask="prefix:256")
    yield from each(
        *("A16", "block-sparse"), rows=8192, heads=8, kv_heads=2, depth=128, mask="blocks:0.25",
        note="8/2 heads instead of 32/8",
    )  # fmt: skip
    yield from each("A17", "chunked prefill", rows=[512, 500], keys=[8192, 32768], mask="bottom", **llama)


def decode() -> Iterator[Case]:
    llama: Words = {"heads": 32, "kv_heads": 8, "depth": 128}
    yield from each("B1", "Llama-3-8B", rows=1, keys=[1024, 8192, 32768, 131072], **llama)
    yield from each("B1", "Llama-3-8B", rows=1, batch=[8, 32], keys=8192, **llama)
    yield from each("B1", "Llama-3-8B", rows=1, batch=8, keys=32768, **llama)
    yield from each("B1", "Llama-3-8B, 4 guesses", rows=4, keys=[8192, 32768], mask="bottom", **llama)
    yield from each(
        *("B2", "Llama-3-8B"), rows=1, batch=8, keys=32768, mask="padding", lengths=RAGGED,
        cache=["pages of 16", "pages of 128"], **llama,
    )  # fmt: skip
    no_fp8 = "int8 alone: no Ascend interface here takes fp8"
    yield from each("B3", "Llama-3-8B", rows=1, keys=[8192, 32768], cache="int8", note=no_fp8, **llama)
    yield from each("B4", "Qwen2.5-7B", rows=1, keys=[8192, 32768], heads=28, kv_heads=4, depth=128)
    yield from each("B5", "Gemma MQA", rows=1, keys=8192, heads=8, kv_heads=1, depth=256)
    yield from each(
        *("B6", "MLA absorbed"), rows=1, keys=[4096, 32768, 131072], heads=128, kv_heads=1, depth=576,
        value_depth=512, value_in_key=True,
    )  # fmt: skip
    yield from each("B7", "Whisper cross", rows=1, keys=1500, heads=20, depth=64)
    yield from each("B7", "BERT-size", rows=1, keys=1500, heads=12, depth=64)


def training() -> Iterator[Case]:
    llama: Words = {"heads": 32, "kv_heads": 8, "depth": 128, "mask": "causal", "work": "training"}
    yield from each("C1", "Llama-3-8B", dtypes=(BF16, FP32), rows=2048, **llama)
    quarter: Words = {**llama, "heads": 8, "kv_heads": 2, "note": "8/2 heads instead of 32/8"}
    yield from each("C1", "Llama-3-8B", rows=[4096, 8192], **quarter)
    train: Words = {"work": "training"}
    yield from each(
        *("C2", "GPT-2 small"), dtypes=(FP32, BF16), batch=8, heads=12, rows=1024, depth=64, mask="causal",
        keep_prob=[1.0, 0.9], **train,
    )  # fmt: skip
    padding = tuple(384 - 8 * i for i in range(32))
    yield from each(
        *("C3", "BERT fine-tune"), batch=32, heads=12, rows=384, depth=64, mask="padding", lengths=padding,
        **train,
    )  # fmt: skip
    yield from each("C4", "SD U-Net", dtypes=(FP32, BF16), batch=2, heads=8, rows=4096, depth=40, **train)
    yield from each(
        *("C5", "packed documents"), heads=8, rows=max(DOCUMENTS), depth=128, mask="causal", layout="TND",
        lengths=DOCUMENTS, **train,
    )  # fmt: skip
    yield from each(
        "C6",
        "few kv heads",
        heads=8,
        kv_heads=[1, 2],
        rows=2048,
        depth=128,
        mask="causal",
        threads=[1, 2],
        **train,
    )
    yield from each(
        "C7", "tabular", dtypes=(FP32,), batch=256, heads=8, rows=[32, 128], depth=[16, 32], **train
    )


def goals() -> Iterator[Case]:
    """Every goal of forward, backward and decode that is a share of a roof; S = 4096 unless said."""
    usual: Words = {"heads": 8, "rows": 4096}
    # With a tile unit: bf16 of its roof, the others of FMA's.
    tiles = {
        (BF16, "forward"): {128: (43, 38), 64: (34, 0)},
        (BF16, "backward"): {128: (36, 0)},
        (FP32, "forward"): {128: (130, 0)},
        (FP16, "forward"): {128: (230, 0)},
    }
    percent = {
        (BF16, "forward"): {128: (90, 88), 64: (87, 84)},
        (BF16, "backward"): {128: (92, 87), 64: (91, 85)},
        (FP32, "forward"): {128: (91, 89), 64: (90, 0)},
        (FP16, "forward"): {128: (88, 86)},
        (FP32, "backward"): {128: (92, 0)},
        (FP16, "backward"): {128: (88, 0)},
    }
    for (dtype, work), depths in percent.items():
        size = 2048 if work == "forward" else 1024
        for depth, both in depths.items():
            on_tiles = tiles.get((dtype, work), {}).get(depth, (0, 0))
            for mask, goal, tile_goal in zip(("full", "causal"), both, on_tiles):
                if goal:
                    yield Case(
                        *("G1", "", dtype), depth=depth, mask=mask, work=work, quick=size, goal=goal,
                        tile_goal=tile_goal, **usual,
                    )  # fmt: skip
    yield Case("G2", "", BF16, 8, 16384, 128, "window:1024", quick=4096, goal=75)
    yield Case("G3", "", BF16, 8, 2048, 128, "kept:0.9", batch=2, quick=2048, goal=80)
    yield Case("G3", "", BF16, 8, 2048, 128, "documents:4", batch=2, quick=2048, goal=65)
    yield Case("G3", "", BF16, 8, 2048, 128, "documents:4", batch=2, work="backward")
    packed: Words = {"layout": "TND", "lengths": SEQUENCES}
    yield Case("G4", "", BF16, 8, max(SEQUENCES), 128, "causal", quick=2048, goal=78, **packed)
    for rows, goal in ((128, 60), (384, 75)):
        yield Case("G5", "", BF16, 12, rows, 64, batch=8, quick=rows, goal=goal)
    yield Case("G5", "", BF16, 32, 512, 128, "causal", kv_heads=8, quick=512, goal=65)
    yield Case("G6", "SD", BF16, 8, 4096, 40, quick=2048, goal=62)
    yield Case("G6", "ViT", BF16, 16, 577, 72, batch=8, quick=577, goal=70)
    yield Case("G6", "MLA", BF16, 16, 2048, 192, "causal", value_depth=128, quick=2048, goal=82)
    yield Case("G6", "", BF16, 8, 4096, 256, quick=1024, goal=85)
    for work, goal in (("forward", 45), ("training", 60)):
        yield Case("G7", "", BF16, 8, 1024, 64, keep_prob=0.9, work=work, quick=1024, goal=goal)
    llama: Words = {"heads": 32, "kv_heads": 8, "depth": 128, "rows": 1}
    yield Case("G8", "decode", BF16, keys=8192, quick=8192, goal=80, **llama)
    yield Case("G8", "decode", BF16, keys=32768, quick=32768, goal=73, **llama)
    yield Case("G8", "decode", BF16, keys=32768, threads=2, goal=77, **llama)
    for dtype in (FP32, BF16, FP16):
        for work in ("forward", "backward"):
            for depth in (128, 64):
                size = 1024 if (dtype, depth) == (FP32, 128) else 0
                yield Case(
                    *("G9", "", dtype), depth=depth, work=work, quick=size, arch="avx2", goal=75,
                    tile_goal=75, **usual,
                )  # fmt: skip


def small_and_scaling() -> Iterator[Case]:
    for dtype in (BF16, FP32):
        yield Case("D1", "one small call", dtype, 1, 16, 64, quick=16)
    for work in ("forward", "backward"):
        for heads in (8, 1):
            for threads in (1, 2):
                yield Case(
                    *("D2", "scaling", BF16, heads, 2048, 128, "causal"), work=work, threads=threads, quick=0
                )


def matrix() -> list[Case]:
    return [*forward(), *decode(), *training(), *small_and_scaling(), *goals()]


def resized(case: Case) -> Case:
    """At the size of the quick run."""
    if case.rows == 1:
        return replace(case, keys=case.quick)
    return replace(case, rows=case.quick, keys=case.quick)


def quick() -> list[Case]:
    """One thread, five minutes."""
    return [resized(case) for case in matrix() if case.quick and case.threads == 1]
