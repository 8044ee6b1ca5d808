"""Clients that choose a device by themselves, where "npu" means the CPU; prints one JSON line."""

import json
import tempfile
from pathlib import Path

import fusion_attention
import torch

fusion_attention.enable("torch_npu", device=True)

from accelerate import Accelerator  # noqa: E402
from accelerate.utils import set_seed  # noqa: E402
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments  # noqa: E402  # noqa: E402

results: dict[str, object] = {}


def tiny_llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        attn_implementation="flash_attention_2",
    )
    return LlamaForCausalLM(config)


def accelerate() -> None:
    set_seed(7)
    accelerator = Accelerator(mixed_precision="bf16")
    model, optimizer = accelerator.prepare(tiny_llama(), torch.optim.SGD(tiny_llama().parameters(), lr=0.1))
    ids = torch.randint(1, 64, (2, 8), device=accelerator.device)
    loss = model(ids, labels=ids).loss
    accelerator.backward(loss)
    results["accelerate device"] = str(accelerator.device)
    results["accelerate loss is finite"] = bool(torch.isfinite(loss))
    results["accelerate gradients"] = all(p.grad is not None for p in model.parameters())


def trainer(folder: str, **options: object) -> float:
    data = [{"input_ids": torch.randint(1, 64, (8,)), "labels": torch.randint(1, 64, (8,))} for _ in range(8)]
    arguments = TrainingArguments(
        output_dir=folder, max_steps=2, per_device_train_batch_size=2, report_to=[], save_steps=1, **options
    )
    done = Trainer(tiny_llama(), arguments, train_dataset=data).train()
    results[f"trainer checkpoint {options}"] = any(Path(folder).glob("checkpoint-2/rng_state*"))
    return done.training_loss


def device_map(folder: str) -> None:
    tiny_llama().save_pretrained(folder)
    model = LlamaForCausalLM.from_pretrained(
        folder, device_map="npu", attn_implementation="flash_attention_2"
    )
    results["device_map"] = str(model.device)


def sentence_transformers() -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Dense

    results["sentence_transformers device"] = str(SentenceTransformer(modules=[Dense(4, 4)]).device)


def bert() -> None:
    config = BertConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
    )
    torch.manual_seed(0)
    state = BertModel(config).state_dict()
    ids, mask = torch.randint(1, 64, (2, 9)), torch.ones(2, 9, dtype=torch.long)
    mask[0, 5:] = 0
    hidden = []
    for implementation in ("eager", "flash_attention_2"):
        config._attn_implementation = implementation
        model = BertModel(config).eval()
        model.load_state_dict(state)
        with torch.no_grad():
            hidden.append(model.npu()(ids.npu(), attention_mask=mask.npu()).last_hidden_state[mask.bool()])
    results["encoder difference"] = float((hidden[0] - hidden[1]).abs().max())


accelerate()
for options in ({}, {"bf16": True}, {"use_cpu": True}):
    with tempfile.TemporaryDirectory() as folder:
        results[f"trainer {options}"] = trainer(folder, **options)
with tempfile.TemporaryDirectory() as folder:
    device_map(folder)
sentence_transformers()
bert()
print("RESULTS " + json.dumps(results))
