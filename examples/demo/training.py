"""Part 2: one training step of a small Llama-style model with grouped queries, through the same path."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from embedding import ASCEND_PATH, MODEL, read_paragraphs
from recorder import ASCEND, Recorder
from report import Summary, draw_mask, progress
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

BATCH, LENGTH = 2, 512
RATE = 1e-3
ROUNDS = 5


def run(files: list[Path], out: Path, summary: Summary) -> None:
    ids = _tokens(files)
    print(
        f"\n2. one training step, Llama with 8 query and 2 key/value heads, {BATCH} x {LENGTH} tokens, fp32"
    )
    eager_loss, eager = _step("eager", ids)
    with Recorder(*ASCEND) as recorder:
        loss, ours = _step(ASCEND_PATH, ids)
    _, sdpa = _step("sdpa", ids)
    print(
        f"   {recorder.calls} calls of npu_fusion_attention, layout BSND, "
        f"sparse_mode {recorder.first['sparse_mode']}, mask {tuple(recorder.first['atten_mask'].shape)}; "
        f"loss {loss:.6f}, eager {eager_loss:.6f}"
    )
    summary.check("Llama step, loss against eager", abs(loss - eager_loss) / eager_loss, 1e-6)
    summary.check("Llama step, worst gradient against eager", _worst(ours, eager), 1e-5)
    summary.note("Llama step, torch SDPA's worst gradient for comparison", f"{_worst(sdpa, eager):.3g}")
    _time(ids, summary)
    draw_mask(
        torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril(), out / "mask_llama_causal.png", "Llama: mode 3"
    )


def _tokens(files: list[Path]) -> torch.Tensor:
    """The text itself, repeated when it is short."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    text = " ".join(read_paragraphs(files))[: BATCH * LENGTH * 12]
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False, verbose=False)["input_ids"][0]
    return ids.repeat(-(-BATCH * LENGTH // len(ids)))[: BATCH * LENGTH].view(BATCH, LENGTH)


def _step(implementation: str, ids: torch.Tensor) -> tuple[float, dict[str, torch.Tensor]]:
    """Forward, backward and an optimizer's step of a freshly seeded model: the loss and every gradient."""
    model = _model(implementation)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    loss = model(ids.npu(), labels=ids.npu()).loss
    loss.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    optimizer.step()
    return loss.item(), gradients


def _model(implementation: str) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=30522,
        hidden_size=512,
        intermediate_size=1024,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=LENGTH,
        use_cache=False,
        attn_implementation=implementation,
    )
    return LlamaForCausalLM(config).npu().train()


def _worst(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """The largest difference, relative to the largest entry of that parameter's gradient."""
    return max(float((ours[name] - g).abs().max() / g.abs().max()) for name, g in theirs.items())


def _time(ids: torch.Tensor, summary: Summary) -> None:
    models = {name: _model(name) for name in (ASCEND_PATH, "sdpa")}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    turns = [(turn, name) for turn in range(ROUNDS + 1) for name in models]
    for turn, name in progress("timing", turns, len(turns)):
        start = time.perf_counter()
        models[name](ids, labels=ids).loss.backward()
        if turn:
            seconds[name].append(time.perf_counter() - start)
    summary.compare("Llama, forward and backward of the whole model", seconds[ASCEND_PATH], seconds["sdpa"])
