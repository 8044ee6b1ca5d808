"""Runs a tiny Llama through transformers' own Ascend path and prints its distance to eager as JSON."""

import json

import fusion_attention
import torch

fusion_attention.enable("torch_npu", device=True)

import transformers.integrations.npu_flash_attention as ascend_path  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402

LENGTHS = (9, 14, 26)
results: dict[str, float] = {"calls": 0}
operator = ascend_path.npu_fusion_attention


def counted(*args, **kwargs):
    results["calls"] += 1
    return operator(*args, **kwargs)


ascend_path.npu_fusion_attention = counted


def model(implementation: str, dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        pad_token_id=0,
        eos_token_id=None,
        attn_implementation=implementation,
    )
    return LlamaForCausalLM(config).to(dtype).eval()


def padded(side: str) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    ids = torch.randint(1, 128, (len(LENGTHS), max(LENGTHS)))
    mask = torch.zeros_like(ids)
    for row, length in enumerate(LENGTHS):
        mask[row, :length] = 1
    if side == "left":
        mask = mask.flip(1)
    return ids * mask, mask


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).abs().max())


def compare_logits(dtype: torch.dtype) -> None:
    """Distance to eager over eager's own distance to the same weights in float64, each sequence alone."""
    eager, ascend = model("eager", dtype), model("flash_attention_2", dtype)
    exact = model("eager", dtype).double()
    name = str(dtype).removeprefix("torch.")

    def compare(
        case: str, expected: torch.Tensor, found: torch.Tensor, sequences: list[torch.Tensor]
    ) -> None:
        alone = torch.cat([exact(sequence[None]).logits[0] for sequence in sequences])
        results[f"{name} {case}"] = difference(expected, found) / difference(expected, alone)

    with torch.no_grad():
        ids, _ = padded("right")
        compare("no padding", eager(ids).logits.flatten(0, 1), ascend(ids).logits.flatten(0, 1), list(ids))
        for side in ("right", "left"):
            ids, mask = padded(side)
            keep = mask.bool()
            expected, found = (network(ids, attention_mask=mask).logits[keep] for network in (eager, ascend))
            compare(f"{side} padding", expected, found, [row[kept] for row, kept in zip(ids, keep)])
        ids = torch.randint(1, 128, (1, sum(LENGTHS)))
        parts = [part[0] for part in ids.split(LENGTHS, 1)]
        expected = torch.cat([eager(part[None]).logits[0] for part in parts])
        positions = torch.cat([torch.arange(length) for length in LENGTHS])[None]
        compare("packed positions", expected, ascend(ids, position_ids=positions).logits[0], parts)
        ends = torch.tensor([0, *LENGTHS]).cumsum(0).int()
        lengths = {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": 26, "max_length_k": 26}
        compare("packed lengths", expected, ascend(ids, position_ids=positions, **lengths).logits[0], parts)


def compare_gradients() -> None:
    for case, side in (("no padding", None), ("right padding", "right"), ("left padding", "left")):
        ids, mask = padded(side or "right")
        gradients = []
        for implementation in ("eager", "flash_attention_2"):
            network = model(implementation)
            options = {"attention_mask": mask} if side else {}
            # A left-padded sequence's first token is predicted from a padding row, which means nothing.
            real = mask * torch.nn.functional.pad(mask, (1, 0))[:, :-1]
            labels = ids.masked_fill(real == 0, -100) if side else ids
            network(ids, labels=labels, **options).loss.backward()
            gradients.append([p.grad for p in network.parameters()])
        worst = max(difference(a, b) / float(a.abs().max()) for a, b in zip(*gradients, strict=True))
        results[f"gradients {case}"] = worst


def compare_compiled() -> None:
    """Without padding and in bf16 the path compiles whole; else transformers itself breaks the graph."""
    network = model("flash_attention_2", torch.bfloat16)
    ids, _ = padded("right")
    with torch.no_grad():
        compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
        results["compiled"] = difference(network(ids).logits, compiled(ids).logits)


def compare_generate() -> None:
    for cache in ("dynamic", "static"):
        for side in (None, "left"):
            ids, mask = padded("left")
            if side is None:
                mask = torch.ones_like(ids)
            tokens = [
                model(implementation).generate(
                    ids, attention_mask=mask, max_new_tokens=8, do_sample=False, cache_implementation=cache
                )
                for implementation in ("eager", "flash_attention_2")
            ]
            results[f"generate {cache} {side or 'no'} padding"] = float((tokens[0] != tokens[1]).sum())


compare_logits(torch.float32)
compare_logits(torch.bfloat16)
compare_gradients()
compare_compiled()
compare_generate()
print("RESULTS " + json.dumps(results))
