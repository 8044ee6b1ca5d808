"""Serve a decoder with a paged int8 cache on the CPU, and the same model through torch with a contiguous one.

    python examples/serve_paged_int8.py [--tokens 64] [--context 1024] [--batch 4] [--layers 6]

A random decoder (6 layers of 384 channels, 12 heads of 32 over 4 heads of keys) reads prompts of different
lengths and generates. The cache holds keys and values as int8 in pages of 32 tokens, a float32 scale per
token and head (mode 5): 36 bytes for each 64 of bfloat16. Attention is
`torch_npu.npu_fused_infer_attention_score`, as on an NPU. Both runs are fed the same tokens, so that their
logits can be compared. Prints tokens per second.
"""

from __future__ import annotations

import argparse
import math
import time

import fusion_attention
import torch
import torch.nn.functional as F

fusion_attention.enable("torch_npu")
import torch_npu  # noqa: E402

CHANNELS, HEADS, KV_HEADS, DEPTH, VOCABULARY = 384, 12, 4, 32, 1000
PAGE = 32
SCALE = 1 / math.sqrt(DEPTH)


def quantised(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[..., D] as int8 and one scale for each row: x is about stored·scale."""
    scale = x.float().abs().amax(-1).clamp(min=1e-6) / 127
    return torch.round(x.float() / scale[..., None]).to(torch.int8), scale


class PagedInt8:
    """Keys and values of every layer in pools of pages; a sequence takes a page when it needs one."""

    def __init__(self, layers: int, batch: int, longest: int):
        width = -(-longest // PAGE)
        shape = (layers, 2, batch * width, KV_HEADS, PAGE)
        self.pool = torch.zeros((*shape, DEPTH), dtype=torch.int8)
        self.scale = torch.zeros(shape)
        self.table = torch.full((batch, width), -1, dtype=torch.int32)
        self.free = torch.randperm(batch * width).tolist()
        self.mask = torch.ones(2048, 2048, dtype=torch.bool).triu(1)

    def places(self, sequence: int, first: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The page and the row in it of each of `count` tokens."""
        token = torch.arange(first, first + count)
        for page in range(first // PAGE, -(-(first + count) // PAGE)):
            if self.table[sequence, page] < 0:
                self.table[sequence, page] = self.free.pop()
        return self.table[sequence, token // PAGE].long(), token % PAGE

    def attend(self, layer: int, sequences: list[int], lengths: list[int], q, k, v) -> torch.Tensor:
        """[B, S, heads·D] of B sequences whose S new tokens follow the `lengths` that are stored."""
        rows = q.shape[1]
        for entry, (sequence, length) in enumerate(zip(sequences, lengths)):
            page, row = self.places(sequence, length, rows)
            for half, new in enumerate((k, v)):
                stored, scale = quantised(new[entry])
                self.pool[layer, half, page, :, row] = stored
                self.scale[layer, half, page, :, row] = scale
        (key, value), (key_scale, value_scale) = self.pool[layer], self.scale[layer]
        out, _ = torch_npu.npu_fused_infer_attention_score(
            q.flatten(2),
            key,
            value,
            num_heads=HEADS,
            num_key_value_heads=KV_HEADS,
            input_layout="BSH",
            scale=SCALE,
            atten_mask=self.mask if rows > 1 else None,
            sparse_mode=3 if rows > 1 else 0,
            actual_seq_lengths_kv=[length + rows for length in lengths],
            block_table=self.table[sequences],
            block_size=PAGE,
            key_antiquant_scale=key_scale,
            value_antiquant_scale=value_scale,
            key_antiquant_mode=5,
            value_antiquant_mode=5,
        )
        return out


class Contiguous:
    """The usual cache of torch: [B, heads, longest, D] in bfloat16, and scaled_dot_product_attention."""

    def __init__(self, layers: int, batch: int, longest: int):
        self.cache = torch.zeros(layers, 2, batch, KV_HEADS, longest, DEPTH, dtype=torch.bfloat16)

    def attend(self, layer: int, sequences: list[int], lengths: list[int], q, k, v) -> torch.Tensor:
        rows, longest = q.shape[1], max(lengths) + q.shape[1]
        for entry, (sequence, length) in enumerate(zip(sequences, lengths)):
            for half, new in enumerate((k, v)):
                self.cache[layer, half, sequence, :, length : length + rows] = new[entry].transpose(0, 1)
        key, value = self.cache[layer][:, sequences, :, :longest]
        row = torch.tensor(lengths)[:, None, None] + torch.arange(rows)[:, None]
        keep = torch.arange(longest) <= row
        out = F.scaled_dot_product_attention(
            q.transpose(1, 2), key, value, attn_mask=keep[:, None], scale=SCALE, enable_gqa=True
        )
        return out.transpose(1, 2).flatten(2)


class Decoder:
    """Pre-norm blocks with random weights, tied embeddings; positions by rotation of channel pairs."""

    def __init__(self, layers: int, longest: int):
        def weight(rows: int, columns: int) -> torch.Tensor:
            return torch.randn(rows, columns) / math.sqrt(columns)

        self.embedding = torch.randn(VOCABULARY, CHANNELS)
        width = (HEADS + 2 * KV_HEADS) * DEPTH
        shapes = (
            (width, CHANNELS),
            (CHANNELS, HEADS * DEPTH),
            (4 * CHANNELS, CHANNELS),
            (CHANNELS, 4 * CHANNELS),
        )
        self.blocks = [tuple(weight(*shape) for shape in shapes) for _ in range(layers)]
        angle = torch.arange(longest)[:, None] / 10000 ** (torch.arange(DEPTH // 2) / (DEPTH // 2))
        self.rotation = torch.polar(torch.ones_like(angle), angle)

    def rotated(self, x: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * self.rotation[position][:, :, None]).flatten(-2)

    def __call__(self, tokens: torch.Tensor, cache, sequences: list[int], lengths: list[int]) -> torch.Tensor:
        """Logits [B, vocabulary] after the last of the S tokens [B, S] that follow what is stored."""
        x = self.embedding[tokens]
        position = torch.tensor(lengths)[:, None] + torch.arange(tokens.shape[1])
        for layer, (inward, outward, up, down) in enumerate(self.blocks):
            heads = F.linear(F.layer_norm(x, (CHANNELS,)), inward).unflatten(-1, (-1, DEPTH))
            q, k, v = heads.split((HEADS, KV_HEADS, KV_HEADS), 2)
            q, k = self.rotated(q, position), self.rotated(k, position)
            operands = (part.bfloat16() for part in (q, k, v))
            x = x + F.linear(cache.attend(layer, sequences, lengths, *operands).float(), outward)
            x = x + F.linear(F.gelu(F.linear(F.layer_norm(x, (CHANNELS,)), up)), down)
        return F.layer_norm(x[:, -1], (CHANNELS,)) @ self.embedding.T


def serve(model: Decoder, cache, prompts: list[torch.Tensor], count: int, told: torch.Tensor | None):
    """Logits [steps, B, vocabulary], the tokens fed, tokens per second of the generation alone."""
    sequences, lengths = list(range(len(prompts))), [len(prompt) for prompt in prompts]
    first = [model(prompt[None], cache, [i], [0]) for i, prompt in enumerate(prompts)]
    logits, fed = [torch.cat(first)], []
    began = time.perf_counter()
    for step in range(count):
        fed.append(logits[-1].argmax(-1) if told is None else told[step])
        logits.append(model(fed[-1][:, None], cache, sequences, lengths))
        lengths = [length + 1 for length in lengths]
    rate = count * len(prompts) / (time.perf_counter() - began)
    return torch.stack(logits), torch.stack(fed), rate


def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, default in (("tokens", 64), ("context", 1024), ("batch", 4), ("layers", 6)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args(arguments)
    torch.manual_seed(0)
    longest = given.context + given.tokens
    model = Decoder(given.layers, longest)
    lengths = [max(1, given.context - i * given.context // (2 * given.batch)) for i in range(given.batch)]
    prompts = [torch.randint(VOCABULARY, (length,)) for length in lengths]
    with torch.inference_mode():
        plain = Contiguous(given.layers, given.batch, longest)
        expected, fed, torch_rate = serve(model, plain, prompts, given.tokens, None)
        paged = PagedInt8(given.layers, given.batch, longest)
        logits, _, rate = serve(model, paged, prompts, given.tokens, fed)
    error = float((logits - expected).norm() / expected.norm())
    agree = float((logits.argmax(-1) == expected.argmax(-1)).float().mean())
    sizes = [size / 2**20 for size in (paged.pool.nbytes + paged.scale.nbytes, plain.cache.nbytes)]
    print(f"{given.batch} prompts of {min(lengths)} to {max(lengths)} tokens, {given.tokens} generated each")
    print(f"  paged int8, fusion_attention   {rate:8.1f} tokens/s   cache {sizes[0]:6.1f} MiB")
    print(f"  contiguous bfloat16, torch     {torch_rate:8.1f} tokens/s   cache {sizes[1]:6.1f} MiB")
    print(f"  logits differ by {error:.2%} of their norm; the best token agrees {agree:.1%} of the time")
    return {"rate": rate, "torch_rate": torch_rate, "error": error, "agree": agree}


if __name__ == "__main__":
    main()
