"""Ring attention over two Gloo processes, in the calls that MindSpeed's context parallelism makes.

Prints as JSON how far output and gradients are from the undivided call, relative to its largest entry. Rank r
owns the chunks r and 2n − 1 − r of every sequence where the mask is causal.
"""

from __future__ import annotations

import json
import os
import tempfile

import fusion_attention
import torch
import torch.distributed as dist
import torch.multiprocessing as processes

fusion_attention.enable("torch_npu", "mindspeed", device=True)
import torch_npu  # noqa: E402
from mindspeed.ops.npu_ring_attention_update import npu_ring_attention_update  # noqa: E402

RANKS, BATCH, HEADS, KV_HEADS, DEPTH, CHUNK, SCALE = 2, 2, 4, 2, 32, 24, 0.2
MASK = torch.ones(2048, 2048, dtype=torch.bool).triu(1)
SIZES = {"SBH": [CHUNK], "BNSD": [CHUNK], "TND": [5, 16]}  # of a chunk of each sequence
ROWS = {"SBH": 0, "BNSD": 2, "TND": 0}  # the axis


class Pattern:
    """One layout: what MindSpeed selects of a rank's rows (a half of each sequence, or all) and passes."""

    def __init__(self, layout: str, causal: bool) -> None:
        self.layout, self.causal, self.axis, self.sizes = layout, causal, ROWS[layout], SIZES[layout]

    def rows(self, half: int | None, heads: int = 1) -> torch.Tensor:
        """Places of a half; with `heads` those in statistics that lie head after head in each sequence."""
        places, start = [], 0
        for size in self.sizes:
            first, last = (0, 2 * size) if half is None else (half * size, (half + 1) * size)
            for _ in range(heads):
                places += range(start + first, start + last)
                start += 2 * size
        return torch.tensor(places)

    def take(self, x: torch.Tensor, half: int | None) -> torch.Tensor:
        return x.index_select(self.axis, self.rows(half))

    def statistics(self, half: int | None) -> tuple[int, torch.Tensor]:
        return (0, self.rows(half, HEADS)) if self.layout == "TND" else (2, self.rows(half))

    def take_statistics(self, x: torch.Tensor, half: int | None) -> torch.Tensor:
        axis, places = self.statistics(half)
        if axis == 2:
            return x.index_select(2, places)
        return x.reshape(-1, 8)[places].reshape(-1, HEADS, 8)

    def put_statistics(self, x: torch.Tensor, half: int | None, part: torch.Tensor) -> None:
        axis, places = self.statistics(half)
        if axis == 2:
            x.index_copy_(2, places, part)
        else:
            x.view(-1, 8)[places] = part.reshape(-1, 8)

    def ends(self, half: int | None) -> list[int]:
        lengths = [size * (2 if half is None else 1) for size in self.sizes]
        return torch.tensor(lengths).cumsum(0).tolist()

    def options(self, keys: int, own: bool, halves: tuple[int | None, int | None]) -> dict:
        masked = self.causal and own
        lengths = dict(zip(("actual_seq_qlen", "actual_seq_kvlen"), map(self.ends, halves)))
        return {
            "pse": None,
            "padding_mask": None,
            "atten_mask": MASK if masked else None,
            "pre_tockens": keys,
            "next_tockens": 0 if masked else keys,
            "keep_prob": 1.0,
            "sparse_mode": 3 if masked else 0,
            **(lengths if self.layout == "TND" else {}),
        }

    def halves(self, rank: int, owner: int) -> tuple[int | None, int | None]:
        """Of the rows and of the keys that meet."""
        if not self.causal or owner == rank:
            return None, None
        return (None, 0) if owner < rank else (1, None)

    def merged(self, before: list, now: tuple, half: int | None) -> tuple:
        if self.layout == "BNSD":  # no fused update has it: MindSpeed's own formula
            (out, top, total), (part, part_top, part_total) = before, now
            largest = torch.maximum(top, part_top)
            left, right = total * (top - largest).exp(), part_total * (part_top - largest).exp()
            whole = left + right
            return out * (left / whole)[..., :1] + part * (right / whole)[..., :1], largest, whole
        ends = torch.tensor([0, *self.ends(half)]) if self.layout == "TND" else None
        return npu_ring_attention_update(*before, *now, ends, self.layout)


def exchange(x: torch.Tensor) -> torch.Tensor:
    """To the next rank, from the one before."""
    rank, came = dist.get_rank(), torch.empty_like(x)
    steps = [
        dist.P2POp(dist.isend, x.contiguous(), (rank + 1) % RANKS),
        dist.P2POp(dist.irecv, came, (rank - 1) % RANKS),
    ]
    for request in dist.batch_isend_irecv(steps):
        request.wait()
    return came


class Ring(torch.autograd.Function):
    @staticmethod
    def forward(ctx, pattern, query, key, value):
        rank, pair, merged = dist.get_rank(), torch.stack([key, value]), None
        for step in range(RANKS):
            owner = (rank - step) % RANKS
            half, key_half = pattern.halves(rank, owner)
            operands = pattern.take(query, half), *(pattern.take(x, key_half) for x in pair)
            options = pattern.options(len(pattern.rows(key_half)), owner == rank, (half, key_half))
            now = torch_npu.npu_fusion_attention(*operands, HEADS, pattern.layout, scale=SCALE, **options)[:3]
            if merged is None:
                merged = [x.clone() for x in now]
            else:
                out, top, total = merged
                before = pattern.take(out, half), *(pattern.take_statistics(x, half) for x in (top, total))
                new = pattern.merged(before, now, half)
                out.index_copy_(pattern.axis, pattern.rows(half), new[0])
                for whole, part in zip((top, total), new[1:]):
                    pattern.put_statistics(whole, half, part)
            pair = exchange(pair)
        ctx.pattern = pattern
        ctx.save_for_backward(query, key, value, *merged)
        return merged[0]

    @staticmethod
    def backward(ctx, dy):
        pattern, rank = ctx.pattern, dist.get_rank()
        query, key, value, out, top, total = ctx.saved_tensors
        pair = torch.stack([key, value])
        dq, pair_gradient = torch.zeros_like(query), torch.zeros_like(pair)
        for step in range(RANKS):
            owner = (rank - step) % RANKS
            half, key_half = pattern.halves(rank, owner)
            operands = pattern.take(query, half), *(pattern.take(x, key_half) for x in pair)
            options = pattern.options(len(pattern.rows(key_half)), owner == rank, (half, key_half))
            found = torch_npu.npu_fusion_attention_grad(
                *operands,
                pattern.take(dy, half),
                HEADS,
                pattern.layout,
                softmax_max=pattern.take_statistics(top, half),
                softmax_sum=pattern.take_statistics(total, half),
                attention_in=pattern.take(out, half),
                scale_value=SCALE,
                **options,
            )
            dq.index_add_(pattern.axis, pattern.rows(half), found[0])
            for whole, part in zip(pair_gradient, found[1:3]):
                whole.index_add_(pattern.axis, pattern.rows(key_half), part)
            pair, pair_gradient = exchange(pair), exchange(pair_gradient)
        return None, dq, *pair_gradient


def shape(layout: str, heads: int) -> tuple[int, ...]:
    rows = 2 * RANKS * sum(SIZES[layout])
    return {
        "SBH": (rows, BATCH, heads * DEPTH),
        "BNSD": (BATCH, heads, rows, DEPTH),
        "TND": (rows, heads, DEPTH),
    }[layout]


def local_rows(layout: str, rank: int, causal: bool) -> torch.Tensor:
    """The rows of a rank in the whole: chunks r and 2n − 1 − r, or 2r and 2r + 1, of every sequence."""
    chunks = (rank, 2 * RANKS - 1 - rank) if causal else (2 * rank, 2 * rank + 1)
    places, start = [], 0
    for size in SIZES[layout]:
        for chunk in chunks:
            places += range(start + chunk * size, start + (chunk + 1) * size)
        start += 2 * RANKS * size
    return torch.tensor(places)


def compare(layout: str, causal: bool) -> float:
    torch.manual_seed(7)
    axis, rank = ROWS[layout], dist.get_rank()
    whole = [torch.randn(shape(layout, n), requires_grad=True) for n in (HEADS, KV_HEADS, KV_HEADS)]
    dy = torch.randn(shape(layout, HEADS))
    options = {"atten_mask": MASK, "sparse_mode": 3} if causal else {}
    if layout == "TND":
        ends = torch.tensor([2 * RANKS * size for size in SIZES[layout]]).cumsum(0).tolist()
        options |= {"actual_seq_qlen": ends, "actual_seq_kvlen": ends}
    expected = torch_npu.npu_fusion_attention(*whole, HEADS, layout, scale=SCALE, **options)[0]
    expected.backward(dy)
    rows = local_rows(layout, rank, causal)
    local = [x.detach().index_select(axis, rows).requires_grad_() for x in whole]
    out = Ring.apply(Pattern(layout, causal), *local)
    out.backward(dy.index_select(axis, rows))
    worst = 0.0
    for ours, theirs in ((out, expected), *((a.grad, b.grad) for a, b in zip(local, whole))):
        error = (ours - theirs.index_select(axis, rows)).abs().max() / theirs.abs().max()
        worst = max(worst, float(error.detach()))
    largest = torch.tensor([worst])
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return float(largest)


CASES = {
    "SBH causal": ("SBH", True),
    "SBH full": ("SBH", False),
    "BNSD causal": ("BNSD", True),
    "TND causal": ("TND", True),
}


def work(rank: int, meeting: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=RANKS)
    results = {name: compare(*case) for name, case in CASES.items()}
    if rank == 0:
        print("RESULTS " + json.dumps(results), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        processes.spawn(work, (os.path.join(folder, "meeting"),), nprocs=RANKS)
