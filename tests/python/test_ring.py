"""Ring attention with simulated ranks: merged chunks equal the undivided call, forward and gradients.

Rank r of n owns the chunks r and 2n − 1 − r of a sequence cut into 2n, the layout of MindSpeed's causal ring:
its own block is causal; keys of an earlier rank matter by their first chunk alone, seen by all its rows; keys
of a later rank are seen by its second chunk alone.
"""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the layers are for torch, which is not installed")
import fusion_attention  # noqa: E402
from fusion_attention.torch import (  # noqa: E402
    npu_fusion_attention_grad_v2,
    npu_fusion_attention_v2,
)

HEADS, KV_HEADS, DEPTH, SCALE = 4, 2, 16, 0.25
MASK = torch.ones(2048, 2048, dtype=torch.bool).triu(1)
SLOPES = torch.tensor([0.5, 0.25, 0.125, 0.0625])
# Largest error allowed, relative to the largest entry: a few roundings of each type.
LIMIT = {torch.float32: 4e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@pytest.fixture(autouse=True)
def layers():
    fusion_attention.enable("torch_npu", "mindspeed")
    yield
    fusion_attention.disable()


def update(*partials, **options):
    import torch_npu

    return torch_npu.npu_ring_attention_update(*partials, **options)


def chunks_of(rank, ranks):
    return rank, 2 * ranks - 1 - rank


def blocks(rank, ranks):
    """(rows' chunks, keys' chunks, causal) of each step of the ring, the own block first."""
    own = chunks_of(rank, ranks)
    yield own, own, True
    for step in range(1, ranks):
        other = (rank - step) % ranks
        theirs = chunks_of(other, ranks)
        yield (own, theirs[:1], False) if other < rank else (own[1:], theirs, False)


def close(ours, theirs, dtype, what):
    scale = theirs.double().abs().max().item() or 1.0
    error = (ours.double() - theirs.double()).abs().max().item() / scale
    assert error <= LIMIT[dtype], f"{what}: {error:.2e} is above {LIMIT[dtype]:.0e}"


class Dense:
    """SBH; with slopes generated from the position of each sub-block, or a part of pse for each."""

    def __init__(self, ranks, dtype, bias):
        self.size, self.bias = 6, bias
        self.rows, batch = 2 * ranks * self.size, 2
        shapes = [(self.rows, batch, heads * DEPTH) for heads in (HEADS, KV_HEADS, KV_HEADS, HEADS)]
        self.query, self.key, self.value, self.dy = (torch.randn(s).to(dtype) for s in shapes)
        self.pse = torch.randn(batch, HEADS, self.rows, self.rows).to(dtype)

    def whole(self):
        options = {"atten_mask": MASK, "sparse_mode": 3, **self.biased(0, 0, self.rows)}
        return self._forward(self.query, self.key, self.value, options), options

    def biased(self, row, key, size):
        if self.bias == "plain":
            return {}
        if self.bias == "pse":
            return {"pse": self.pse[..., row : row + size, key : key + size]}
        return {"pse": SLOPES, "pse_type": 2, "q_start_idx": [row], "kv_start_idx": [key]}

    def _forward(self, query, key, value, options):
        return npu_fusion_attention_v2(query, key, value, HEADS, "SBH", scale=SCALE, **options)[:3]

    def _backward(self, query, key, value, dy, saved, options):
        out, top, total = saved
        return npu_fusion_attention_grad_v2(
            *(query, key, value, dy, HEADS, "SBH"),
            scale_value=SCALE,
            softmax_max=top,
            softmax_sum=total,
            attention_in=out,
            **options,
        )[:3]

    def part(self, tensor, chunks):
        return torch.cat([tensor[c * self.size : (c + 1) * self.size] for c in chunks])

    def pieces(self, row_chunks, key_chunks, causal):
        """A call knows one position for its first row and key: with a bias its chunks go one by one."""
        if self.bias == "plain":
            yield row_chunks, key_chunks, {"atten_mask": MASK, "sparse_mode": 3} if causal else {}
            return
        for row in row_chunks:
            for key in key_chunks:
                if causal and key > row:
                    continue
                masked = {"atten_mask": MASK, "sparse_mode": 3} if causal and key == row else {}
                yield (row,), (key,), {**masked, **self.biased(row * self.size, key * self.size, self.size)}

    def statistics(self, values, chunks, own):
        places = [own.index(c) for c in chunks]
        return torch.cat([values[:, :, p * self.size : (p + 1) * self.size] for p in places], 2)

    def run(self, rank, ranks):
        """(out, max, sum) of the rank's rows, and (dq of its rows, dk, dv of all keys), in float64."""
        own = chunks_of(rank, ranks)
        merged = None
        steps = [piece for block in blocks(rank, ranks) for piece in self.pieces(*block)]
        for rows, keys, options in steps:
            current = self._forward(
                self.part(self.query, rows),
                self.part(self.key, keys),
                self.part(self.value, keys),
                options,
            )
            current = self.spread(current, rows, own)
            merged = current if merged is None else update(*merged, *current)
        return merged, self.gradients(merged, steps, own)

    def spread(self, current, rows, own):
        """Rows that a step leaves out have seen no key in it."""
        out, top, total = current
        if rows == own:
            return current
        full = torch.zeros_like(self.part(self.query, own))
        statistics = [
            torch.full((top.shape[0], HEADS, full.shape[0], 8), x) for x in (torch.finfo().min, 1.0)
        ]
        for place, chunk in enumerate(rows):
            there = slice(own.index(chunk) * self.size, (own.index(chunk) + 1) * self.size)
            here = slice(place * self.size, (place + 1) * self.size)
            full[there] = out[here]
            for whole, part in zip(statistics, (top, total)):
                whole[:, :, there] = part[:, :, here]
        return full, *statistics

    def gradients(self, merged, steps, own):
        out, top, total = merged
        sums = [torch.zeros(x.shape, dtype=torch.float64) for x in (self.query, self.key, self.value)]
        for rows, keys, options in steps:
            saved = [self.statistics(x, rows, own) for x in (top, total)]
            places = [own.index(c) for c in rows]
            local = torch.cat([out[p * self.size : (p + 1) * self.size] for p in places])
            operands = [
                self.part(x, c) for x, c in ((self.query, rows), (self.key, keys), (self.value, keys))
            ]
            found = self._backward(*operands, self.part(self.dy, rows), (local, *saved), options)
            for whole, part, chunks in zip(sums, found, (rows, keys, keys)):
                for place, chunk in enumerate(chunks):
                    at = slice(chunk * self.size, (chunk + 1) * self.size)
                    whole[at] += part[place * self.size : (place + 1) * self.size].double()
        return sums


@pytest.mark.parametrize("ranks", [2, 4, 8])
@pytest.mark.parametrize("bias", ["plain", "slopes", "pse"])
@pytest.mark.parametrize("dtype", LIMIT)
def test_dense_ring_equals_the_single_call(ranks, bias, dtype):
    torch.manual_seed(ranks)
    case = Dense(ranks, dtype, bias)
    (out, top, total), options = case.whole()
    sums = [torch.zeros(x.shape, dtype=torch.float64) for x in (case.query, case.key, case.value)]
    for rank in range(ranks):
        own = chunks_of(rank, ranks)
        merged, gradients = case.run(rank, ranks)
        close(merged[0], case.part(out, own), dtype, f"out of rank {rank}")
        at = [r for c in own for r in range(c * case.size, (c + 1) * case.size)]
        close(merged[1], top[:, :, at], torch.float32, f"max of rank {rank}")
        close(merged[2], total[:, :, at], torch.float32, f"sum of rank {rank}")
        for whole, part in zip(sums, gradients):
            whole += part
    expected = case._backward(case.query, case.key, case.value, case.dy, (out, top, total), options)
    for name, ours, theirs in zip(("dq", "dk", "dv"), sums, expected):
        close(ours, theirs, dtype, name)


class Packed:
    """TND: every sequence is cut into 2n chunks; a call packs the same chunks of all sequences."""

    def __init__(self, ranks, dtype, natural):
        self.sizes = [3, 5, 1]  # of a chunk of each sequence
        self.lengths = [2 * ranks * size for size in self.sizes]
        self.starts = np.cumsum([0, *self.lengths])
        self.softmax_layout = "TND" if natural else ""
        tokens = int(self.starts[-1])
        shapes = [(tokens, heads, DEPTH) for heads in (HEADS, KV_HEADS, KV_HEADS, HEADS)]
        self.query, self.key, self.value, self.dy = (torch.randn(s).to(dtype) for s in shapes)

    def places(self, chunks):
        return torch.tensor(
            [
                int(start) + chunk * size + i
                for start, size in zip(self.starts, self.sizes)
                for chunk in chunks
                for i in range(size)
            ]
        )

    def ends(self, chunks):
        return np.cumsum([len(chunks) * size for size in self.sizes]).tolist()

    def options(self, rows, keys, causal):
        masked = {"atten_mask": MASK, "sparse_mode": 3} if causal else {}
        lengths = {"actual_seq_qlen": self.ends(rows), "actual_seq_kvlen": self.ends(keys)}
        return {**masked, **lengths, "softmax_layout": self.softmax_layout}

    def forward(self, rows, keys, causal):
        operands = [x[self.places(c)] for x, c in ((self.query, rows), (self.key, keys), (self.value, keys))]
        return npu_fusion_attention_v2(
            *operands, HEADS, "TND", scale=SCALE, **self.options(rows, keys, causal)
        )[:3]

    def backward(self, rows, keys, causal, saved):
        chunks = (rows, keys, keys, rows)
        operands = [x[self.places(c)] for x, c in zip((self.query, self.key, self.value, self.dy), chunks)]
        out, top, total = saved
        return npu_fusion_attention_grad_v2(
            *(*operands, HEADS, "TND"),
            scale_value=SCALE,
            softmax_max=top,
            softmax_sum=total,
            attention_in=out,
            **self.options(rows, keys, causal),
        )[:3]

    def natural(self, statistics, chunks):
        """[T, N] whatever the layout of the statistics."""
        if self.softmax_layout:
            return statistics[..., 0]
        flat, parts, start = statistics.reshape(-1, 8)[:, 0], [], 0
        for size in self.sizes:
            rows = len(chunks) * size
            parts.append(flat[start : start + rows * HEADS].reshape(HEADS, rows).T)
            start += rows * HEADS
        return torch.cat(parts)

    def stored(self, values, chunks):
        """The inverse of natural."""
        if not self.softmax_layout:
            rows = [len(chunks) * size for size in self.sizes]
            values = torch.cat([part.T.reshape(-1) for part in values.split(rows)]).reshape(values.shape)
        return values.unsqueeze(-1).expand(*values.shape, 8).contiguous()


def within(packed, chunks, own):
    """Where the tokens of `chunks` lie among those of `own`."""
    where = {int(place): i for i, place in enumerate(packed.places(own))}
    return torch.tensor([where[int(place)] for place in packed.places(chunks)])


@pytest.mark.parametrize("ranks", [2, 4, 8])
@pytest.mark.parametrize("natural", [False, True], ids=["head-major", "natural"])
@pytest.mark.parametrize("leading_zero", [False, True], ids=["ends", "from zero"])
def test_packed_ring_equals_the_single_call(ranks, natural, leading_zero):
    torch.manual_seed(10 + ranks)
    case, dtype = Packed(ranks, torch.float32, natural), torch.float32
    every = tuple(range(2 * ranks))
    whole = case.forward(every, every, True)
    sums = [torch.zeros(x.shape, dtype=torch.float64) for x in (case.query, case.key, case.value)]
    for rank in range(ranks):
        own = chunks_of(rank, ranks)
        ends = torch.tensor([0, *case.ends(own)] if leading_zero else case.ends(own))
        options = {
            "actual_seq_qlen": ends,
            "input_layout": "TND",
            "input_softmax_layout": case.softmax_layout,
        }
        merged = None
        for rows, keys, causal in blocks(rank, ranks):
            out, top, total = case.forward(rows, keys, causal)
            at = within(case, rows, own)
            full = torch.zeros(len(case.places(own)), HEADS, DEPTH)
            full[at] = out
            spread = []
            for values, hidden in ((top, torch.finfo().min), (total, 1.0)):
                wide = torch.full((len(full), HEADS), hidden)
                wide[at] = case.natural(values, rows)
                spread.append(case.stored(wide, own))
            current = (full, *spread)
            merged = current if merged is None else update(*merged, *current, **options)
        close(merged[0], whole[0][case.places(own)], dtype, f"out of rank {rank}")
        for ours, theirs in zip(merged[1:], whole[1:]):
            close(case.natural(ours, own), case.natural(theirs, every)[case.places(own)], dtype, "statistics")
        for rows, keys, causal in blocks(rank, ranks):
            at = within(case, rows, own)
            saved = [merged[0][at]] + [case.stored(case.natural(x, own)[at], rows) for x in merged[1:]]
            found = case.backward(rows, keys, causal, saved)
            for total_gradient, part, chunks in zip(sums, found, (rows, keys, keys)):
                total_gradient[case.places(chunks)] += part.double()
    for name, ours, theirs in zip(
        ("dq", "dk", "dv"), sums, case.backward(every, every, True, whole), strict=True
    ):
        close(ours, theirs, dtype, name)


# --- The update itself ---


def partial(rows, seed, hidden=(), dtype=torch.float32):
    """SBH, B = 1, N = 2, D = 4."""
    g = torch.Generator().manual_seed(seed)
    out = torch.randn(rows, 1, 8, generator=g).to(dtype)
    top = 50 * torch.randn(1, 2, rows, 1, generator=g)
    total = 1 + 3 * torch.rand(1, 2, rows, 1, generator=g)
    for row in hidden:
        out[row], top[:, :, row], total[:, :, row] = 0, torch.finfo().min, 1
    return out, top.expand(-1, -1, -1, 8).contiguous(), total.expand(-1, -1, -1, 8).contiguous()


def formula(prev, cur):
    """The plain merge in float64."""
    (a, m, s), (b, n, t) = ([x.double() for x in part] for part in (prev, cur))
    top = torch.maximum(m, n)
    left, right = s * (m - top).exp(), t * (n - top).exp()
    spread = [(x / (left + right))[..., 0].permute(2, 0, 1).repeat_interleave(4, -1) for x in (left, right)]
    return a * spread[0] + b * spread[1], top, left + right


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_update_is_the_formula(dtype):
    prev, cur = partial(9, 0, (2, 3), dtype), partial(9, 1, (3, 4), dtype)
    out, top, total = update(*prev, *cur)
    expected = formula(prev, cur)
    assert out.dtype == dtype and top.shape == prev[1].shape and total.is_contiguous()
    seen = [row for row in range(9) if row != 3]
    close(out[seen], expected[0][seen], dtype, "out")
    close(top[:, :, seen], expected[1][:, :, seen], torch.float32, "max")
    close(total[:, :, seen], expected[2][:, :, seen], torch.float32, "sum")
    assert (out[3] == 0).all() and (top[:, :, 3] == torch.finfo().min).all() and (total[:, :, 3] == 1).all()


@pytest.mark.parametrize(
    ("top", "total"),
    [(torch.finfo().min, 1.0), (torch.finfo().min, torch.finfo().max), (0.0, 0.0), (float("-inf"), 1.0)],
    ids=["ours", "invalid line", "empty problem", "minus infinity"],
)
def test_rows_without_a_key_stay_finite_however_often_they_merge(top, total):
    ordinary = partial(4, 3)
    hidden = (torch.zeros(4, 1, 8), torch.full((1, 2, 4, 8), top), torch.full((1, 2, 4, 8), total))
    merged = hidden
    for _ in range(300):
        merged = update(*merged, *merged)
        merged = update(*merged, *hidden)
    assert all(torch.isfinite(x).all() for x in merged)
    for pair in ((merged, ordinary), (ordinary, merged)):
        for ours, theirs in zip(update(*pair[0], *pair[1]), ordinary):
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)


def test_a_visible_nan_stays():
    prev, cur = partial(4, 5), partial(4, 6)
    prev[1][:, :, 1] = float("nan")
    out, top, total = update(*prev, *cur)
    assert out[1].isnan().all() and top[:, :, 1].isnan().all() and total[:, :, 1].isnan().all()
    assert torch.isfinite(out[[0, 2, 3]]).all()


def test_tokens_behind_the_last_sequence_are_merged_too():
    torch.manual_seed(0)
    out, top, total = torch.randn(5, 2, 4), torch.randn(5, 2, 8), 1 + torch.rand(5, 2, 8)
    packed = {"input_layout": "TND", "actual_seq_qlen": [2, 3]}
    merged = update(out, top, total, out, top, total, **packed)
    torch.testing.assert_close(merged[0], out)


def test_mindspeeds_name_and_order():
    from mindspeed.op_builder import RingAttentionUpdateOpBuilder
    from mindspeed.ops.npu_ring_attention_update import npu_ring_attention_update

    prev, cur = partial(5, 7), partial(5, 8)
    for function in (
        npu_ring_attention_update,
        RingAttentionUpdateOpBuilder().load().npu_ring_attention_update,
    ):
        for ours, theirs in zip(function(*prev, *cur, None, "SBH"), update(*prev, *cur)):
            assert torch.equal(ours, theirs)
    for ours, theirs in zip(torch.ops.npu.npu_ring_attention_update(*prev, *cur), update(*prev, *cur)):
        assert torch.equal(ours, theirs)


def test_no_wrong_derivative():
    prev, cur = partial(3, 0), partial(3, 1)
    out = update(prev[0].requires_grad_(), *prev[1:], *cur)[0]
    with pytest.raises(NotImplementedError, match="npu_ring_attention_update: got a derivative, allowed is"):
        out.sum().backward()


TND = {"input_layout": "TND", "actual_seq_qlen": [2, 3]}


@pytest.mark.parametrize(
    ("place", "change", "options", "error", "sentence"),
    [
        (0, lambda x: None, {}, TypeError, "prev_attn_out: got NoneType, allowed is a torch tensor"),
        (3, lambda x: x.half(), {}, RuntimeError, "cur_attn_out: got torch.float16"),
        (0, lambda x: x.double(), {}, RuntimeError, "prev_attn_out: got torch.float64"),
        (1, lambda x: x.half(), {}, RuntimeError, "prev_softmax_max: got torch.float16"),
        (4, lambda x: x[..., :4], {}, RuntimeError, r"cur_softmax_max: got torch.float32 \[1, 2, 3, 4\]"),
        (0, lambda x: x[0], {}, RuntimeError, "cur_attn_out: got"),
        (0, lambda x: x, {"input_layout": "BSND"}, RuntimeError, 'input_layout: got "BSND", allowed is SBH'),
        (0, lambda x: x, {"input_layout": 3}, TypeError, "input_layout: got int"),
        (0, lambda x: x, TND, RuntimeError, r"prev_softmax_max: got \[1, 2, 3, 8\], allowed is \[T, N, 8\]"),
        (0, lambda x: x, {"input_softmax_layout": "TND"}, RuntimeError, 'input_softmax_layout: got "TND"'),
        (0, lambda x: x, {"input_softmax_layout": "BNS"}, RuntimeError, 'input_softmax_layout: got "BNS"'),
    ],
)  # fmt: skip
def test_refusals(place, change, options, error, sentence):
    arguments = [*partial(3, 0), *partial(3, 1)]
    arguments[place] = change(arguments[place])
    with pytest.raises(error, match=sentence):
        update(*arguments, **options)


@pytest.mark.parametrize(
    ("ends", "error", "sentence"),
    [
        (None, RuntimeError, "actual_seq_qlen: got None"),
        ([3, 2], RuntimeError, r"actual_seq_qlen: got \[3, 2\], allowed are growing numbers from 0 to T"),
        ([2, 4], RuntimeError, "which is 3"),
        ([-1, 3], RuntimeError, "actual_seq_qlen"),
        (torch.ones(2), RuntimeError, "actual_seq_qlen: got a torch.float32 tensor of rank 1"),
        ([1.5, 3], TypeError, "actual_seq_qlen: got float"),
    ],
)
def test_refused_lengths(ends, error, sentence):
    arguments = [torch.ones(3, 2, 4), torch.ones(3, 2, 8), torch.ones(3, 2, 8)]
    with pytest.raises(error, match=sentence):
        update(*arguments, *arguments, input_layout="TND", actual_seq_qlen=ends)
