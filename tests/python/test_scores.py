"""Modes, pse, dropout, sink and rope of npu_fusion_attention against dense torch arithmetic in float64.

One dense statement, differentiated by autograd; test_family_calls.py settles the whole option space.
"""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import fusion_attention.torch as front  # noqa: E402
from fusion_attention import generator  # noqa: E402
from fusion_attention import numpy as numpy_front  # noqa: E402

B, N, KV, SQ, SKV, D = 2, 4, 2, 5, 7, 8
INT_MAX = 2147483647
TRIANGLE = torch.triu(torch.ones(2048, 2048, dtype=torch.bool), 1)
PREFIX_MASK = torch.zeros(3072, 2048, dtype=torch.bool)


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def operands(rows=SQ, keys=SKV, batches=B):
    """BNSD, requiring gradients."""
    shapes = ((N, rows), (KV, keys), (KV, keys))
    return [randn(batches, n, s, D, seed=i).requires_grad_() for i, (n, s) in enumerate(shapes)]


def dense(query, key, value, scale=1.0, keep=None, before=0, after=0, kept=None, keep_prob=1.0, sink=None):
    """out, max, sum of BNSD in the type of the operands; before, after: biases around the scale."""
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
    s = (query @ key.transpose(-1, -2) + before) * scale + after
    if keep is not None:
        s = s.masked_fill(~keep, -math.inf)
    joined = s if sink is None else torch.cat([s, sink[None, :, None, None].expand(*s.shape[:3], 1)], -1)
    top = joined.detach().amax(-1, keepdim=True)
    p, total = (s - top).exp(), (joined - top).exp().sum(-1, keepdim=True)
    if kept is not None:
        p = p * kept / keep_prob
    return (p @ value) / total, top[..., 0], total[..., 0]


def check(given, call, statement):
    """Value, statistics and every gradient of `call`, a function of the leaves, against `statement`."""
    leaves = [x.detach().requires_grad_() for x in given]
    exact = [x.detach().double().requires_grad_() for x in given]
    out, top, total, *_ = call(*leaves)
    expected = statement(*exact)
    for a, b in zip((out, top[..., 0], total[..., 0]), expected):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-5)
    dy = randn(*out.shape, seed=9)
    out.backward(dy)
    expected[0].backward(dy.double())
    for x, y in zip(leaves, exact):
        assert x.grad is not None and x.grad.dtype == x.dtype and x.grad.shape == x.shape
        torch.testing.assert_close(x.grad.double(), y.grad, rtol=1e-4, atol=1e-4)


# --- Modes ---

ROW, KEY = torch.arange(SQ)[:, None], torch.arange(SKV)[None, :]


def prefixed(rows, keys, prefix):
    i, j = torch.arange(rows)[:, None], torch.arange(keys)[None, :]
    return torch.stack([(j <= i + keys - rows) | (j < n) for n in prefix])[:, None]


def test_mode_5_with_and_without_a_prefix():
    hidden = torch.rand(B, 1, SQ, SKV, generator=torch.Generator().manual_seed(3)) < 0.3
    hidden[..., 0] = False
    words = {"scale": 0.4, "sparse_mode": 5, "atten_mask": hidden}
    for prefix, seen in ((None, ~hidden), ([3, 6], ~hidden & prefixed(SQ, SKV, [3, 6]))):
        check(
            operands(),
            lambda q, k, v, prefix=prefix: front.npu_fusion_attention(
                q, k, v, N, "BNSD", prefix=prefix, **words
            ),
            lambda q, k, v, seen=seen: dense(q, k, v, 0.4, seen),
        )


@pytest.mark.parametrize("form", [list, tuple, torch.tensor])
def test_mode_6(form):
    words = {"scale": 0.4, "sparse_mode": 6, "atten_mask": PREFIX_MASK, "prefix": form([2, 7])}
    check(
        operands(),
        lambda q, k, v: front.npu_fusion_attention(q, k, v, N, "BNSD", **words),
        lambda q, k, v: dense(q, k, v, 0.4, prefixed(SQ, SKV, [2, 7])),
    )


PACKED = ((3, 3), (4, 6), (2, 5))  # rows, keys
ENDS = {"actual_seq_qlen": [3, 7, 9], "actual_seq_kvlen": [3, 9, 14]}


def packed_operands():
    rows, keys = (sum(x) for x in zip(*PACKED))
    return [
        randn(s, n, D, seed=i).requires_grad_()
        for i, (n, s) in enumerate(((N, rows), (KV, keys), (KV, keys)))
    ]


def by_sequence(query, key, value, statement):
    """statement(index, q, k, v) of each packed sequence, as BNSD, joined as TND, head-major statistics."""
    row, col, parts = 0, 0, []
    for index, (rows, keys) in enumerate(PACKED):
        pieces = query[row : row + rows], key[col : col + keys], value[col : col + keys]
        parts.append(statement(index, *(x.transpose(0, 1)[None] for x in pieces)))
        row, col = row + rows, col + keys
    out = torch.cat([out[0].transpose(0, 1) for out, _, _ in parts])
    statistics = (torch.cat([part[i].reshape(-1) for part in parts]).reshape(-1, N) for i in (1, 2))
    return (out, *statistics)


def shifted(rows, keys, shift):
    return torch.arange(keys)[None, :] <= torch.arange(rows)[:, None] + shift


@pytest.mark.parametrize(("mode", "post"), [(6, 0), (7, 0), (7, -1), (8, 0), (8, 1), (8, 2)])
def test_modes_of_packed_sequences(mode, post):
    prefix = [1, 5, 3]
    cut = {7: 2, 8: 0}.get(mode)

    def statement(index, q, k, v):
        rows, keys = PACKED[index]
        shift = 0 if mode == 8 else keys - rows
        seen = shifted(rows, keys, keys - rows + post if index == cut else shift)
        if mode == 6:
            seen = prefixed(rows, keys, prefix[index : index + 1])
        return dense(q, k, v, 0.4, seen)

    words = {"scale": 0.4, "sparse_mode": mode, "next_tockens": post, **ENDS}
    words["atten_mask"] = PREFIX_MASK if mode == 6 else TRIANGLE
    if mode == 6:
        words["prefix"] = prefix
    check(
        packed_operands(),
        lambda q, k, v: front.npu_fusion_attention(q, k, v, N, "TND", **words),
        lambda q, k, v: by_sequence(q, k, v, statement),
    )


def test_prefix_that_has_no_effect_is_said():
    """Once per process, so in one of its own."""
    program = (
        "import torch, fusion_attention.torch as front\n"
        "x, mask = torch.ones(2, 1, 3, 8), torch.zeros(3, 3, dtype=torch.bool)\n"
        "for _ in range(2):\n"
        "    front.npu_fusion_attention(x, x, x, 1, 'BNSD', sparse_mode=1, atten_mask=mask, prefix=[2, 2])\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stderr.count("prefix has no effect: it") == 1, done.stderr


# --- pse ---


@pytest.mark.parametrize("shape", [(b, n, r, SKV) for b in (1, B) for n in (1, N) for r in (1, SQ)])
@pytest.mark.parametrize("kind", [0, 1])
def test_pse_of_every_broadcast_shape(shape, kind):
    bias = randn(*shape, seed=5)
    side = "before" if kind else "after"
    check(
        [*operands(), bias],
        lambda q, k, v, p: front.npu_fusion_attention_v2(q, k, v, N, "BNSD", scale=0.3, pse=p, pse_type=kind),
        lambda q, k, v, p: dense(q, k, v, 0.3, **{side: p}),
    )


STRIDES = {
    "last axis apart": lambda x: torch.stack([x, torch.full_like(x, math.nan)], -1)[..., 0],
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "one row for all": lambda x: x[:, :, :1].expand_as(x),
    "one number for all": lambda x: x[..., :1].expand_as(x),
}


@pytest.mark.parametrize("how", STRIDES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_strides_of_pse(how, dtype):
    strided = STRIDES[how](randn(B, N, SQ, SKV, seed=5).to(dtype))
    results = []
    for bias in (strided, strided.contiguous()):
        leaf = bias.detach().requires_grad_()
        given = [x.detach().to(dtype) for x in operands()]
        out, *_ = front.npu_fusion_attention(*given, N, "BNSD", scale=0.3, pse=leaf)
        (gradient,) = torch.autograd.grad(out.float().square().sum(), leaf)
        assert gradient.shape == bias.shape and gradient.dtype == dtype
        results.append((out, gradient))
    for a, b in zip(*results):
        assert torch.equal(a, b)


@pytest.mark.parametrize("kind", [2, 3])
@pytest.mark.parametrize("shape", [(N,), (B, N)])
@pytest.mark.parametrize("starts", [None, (3, 1)])
def test_slopes(kind, shape, starts):
    q0, kv0 = starts or (0, 0)
    distance = (KEY + kv0 - ROW - q0).abs().double()
    distance = distance.sqrt() if kind == 3 else distance
    words = {"scale": 0.3, "pse_type": kind}
    if starts:
        words |= {"q_start_idx": [q0], "kv_start_idx": [kv0]}
    check(
        [*operands(), randn(*shape, seed=5).abs()],
        lambda q, k, v, s: front.npu_fusion_attention_v2(q, k, v, N, "BNSD", pse=s, **words),
        lambda q, k, v, s: dense(q, k, v, 0.3, after=-s.reshape(-1, N, 1, 1) * distance),
    )


def test_slopes_of_mode_8_start_elsewhere_in_the_first_sequence_alone():

    def statement(slope, index, q, k, v):
        rows, keys = PACKED[index]
        shift = 2 if index == 0 else 0
        distance = (torch.arange(keys)[None] - torch.arange(rows)[:, None] + shift).abs()
        bias = -slope.reshape(1, N, 1, 1) * distance
        return dense(q, k, v, 0.4, shifted(rows, keys, keys - rows if index == 0 else 0), after=bias)

    words = {"scale": 0.4, "sparse_mode": 8, "next_tokens": 0, "atten_mask": TRIANGLE, **ENDS}
    words |= {"pse_type": 2, "q_start_idx": [1], "kv_start_idx": [3]}
    check(
        [*packed_operands(), randn(N, seed=5).abs()],
        lambda q, k, v, s: front.npu_fusion_attention_v2(q, k, v, N, "TND", pse=s, **words),
        lambda q, k, v, s: by_sequence(q, k, v, lambda *x: statement(s, *x)),
    )


@pytest.mark.parametrize("rows", [True, False])
def test_flattened_pse_of_packed_sequences(rows):
    sizes = [N * (r if rows else 1) * k for r, k in PACKED]

    def statement(flat, index, q, k, v):
        piece = flat[sum(sizes[:index]) : sum(sizes[: index + 1])]
        return dense(q, k, v, 0.4, before=piece.reshape(1, N, -1, PACKED[index][1]))

    check(
        [*packed_operands(), randn(sum(sizes), seed=5)],
        lambda q, k, v, p: front.npu_fusion_attention(q, k, v, N, "TND", scale=0.4, pse=p, **ENDS),
        lambda q, k, v, p: by_sequence(q, k, v, lambda *x: statement(p, *x)),
    )


def test_compressed_pse():
    """The last 1024 rows of a bias of the distance alone stand for the whole."""
    size = 1030
    given = operands(size, size, batches=1)
    i, j = torch.arange(size)[:, None], torch.arange(size)[None, :]
    whole = -(i - j).abs() * torch.tensor([0.5, 0.25, 0.125, 1.0]).reshape(1, N, 1, 1)
    words = {"scale": 0.3, "sparse_mode": 2, "atten_mask": TRIANGLE, "pse_type": 0}
    out, top, total, *_ = front.npu_fusion_attention_v2(
        *given, N, "BNSD", pse=whole[:, :, -1024:].contiguous(), **words
    )
    expected = dense(*(x.double() for x in given), 0.3, j <= i, after=whole.double())
    for a, b in zip((out, top[..., 0], total[..., 0]), expected):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-5)
    with pytest.raises(RuntimeError, match="^pse: .*causal"):
        front.npu_fusion_attention_v2(*given, N, "BNSD", pse=whole[:, :, -1024:], pse_type=0)


# --- dropout ---


def bits(count, keep_prob, seed, offset):
    """Kept or not, from the generator of masks."""
    mask = front._npu_dropout_gen_mask(torch.empty(0), [count], 1 - keep_prob, seed, offset)
    return torch.from_numpy(np.unpackbits(mask.numpy(), bitorder="little")[:count].astype(np.float64))


@pytest.mark.parametrize("source", ["seed", "mask"])
def test_dropout(source):
    kept = bits(B * N * SQ * SKV, 0.7, 5, 12).reshape(B, N, SQ, SKV)
    words = {"seed": 5, "offset": 12}
    if source == "mask":
        words["dropout_mask"] = front._npu_dropout_gen_mask(torch.empty(0), kept.shape, 0.3, 5, 12)
        words |= {"seed": 1, "offset": 2}
    check(
        operands(),
        lambda q, k, v: front.npu_fusion_attention(q, k, v, N, "BNSD", scale=0.4, keep_prob=0.7, **words),
        lambda q, k, v: dense(q, k, v, 0.4, kept=kept, keep_prob=0.7),
    )


def test_a_dropout_mask_with_gaps_lives_as_long_as_the_call():
    """Its copy is as large as the statistics, which would be given its memory if it were freed too early."""
    rows = 256
    mask = torch.arange(N * rows * rows // 8, dtype=torch.int64).mul(37).bitwise_and(255).to(torch.uint8)
    results = []
    for given in (mask, torch.stack([mask, ~mask], 1)[:, 0]):
        q, k, v = operands(rows, rows, 1)
        out = front.npu_fusion_attention(q, k, v, N, "BNSD", keep_prob=0.5, dropout_mask=given)[0]
        out.sum().backward()
        results.append((out, q.grad, k.grad, v.grad))
    assert all(torch.equal(x, y) for x, y in zip(*results))


def test_dropout_of_packed_sequences():
    sizes = [N * r * k for r, k in PACKED]
    kept = bits(sum(sizes), 0.6, 3, 0)

    def statement(index, q, k, v):
        piece = kept[sum(sizes[:index]) : sum(sizes[: index + 1])]
        return dense(q, k, v, 0.4, kept=piece.reshape(1, N, *PACKED[index]), keep_prob=0.6)

    check(
        packed_operands(),
        lambda q, k, v: front.npu_fusion_attention(
            q, k, v, N, "TND", scale=0.4, keep_prob=0.6, seed=3, **ENDS
        ),
        lambda q, k, v: by_sequence(q, k, v, statement),
    )


def test_the_generator_is_drawn_from_once_per_forward():
    given = operands()
    generator.manual_seed(2)
    first = front.npu_fusion_attention(*given, N, "BNSD", keep_prob=0.5)
    second = front.npu_fusion_attention_v2(*given, N, "BNSD", keep_prob=0.5)
    third = front.npu_fusion_attention_v3(*given, N, "BNSD", keep_prob=0.5)
    assert first[4:] == (2, 0, B * N * SQ * SKV) and second[4:6] == (2, 12)
    assert [x.tolist() for x in third[4:]] == [[2], [24]]
    first[0].sum().backward()
    # Neither a call without dropout nor one with seed, mask or nothing to keep draws.
    plain = front.npu_fusion_attention(*given, N, "BNSD", seed=7, offset=3)
    named = front.npu_fusion_attention(*given, N, "BNSD", keep_prob=0.5, seed=7)
    masked = front.npu_fusion_attention(
        *given, N, "BNSD", keep_prob=0.5, seed=7, dropout_mask=torch.full((256,), 255, dtype=torch.uint8)
    )
    assert plain[4:6] == (7, 3) and named[4:6] == masked[4:6] == (7, 0)
    assert masked[6] == first[6]
    assert not torch.equal(first[0], second[0])
    arrays = [x.detach().numpy() for x in given]
    fourth = numpy_front.npu_fusion_attention(*arrays, N, "BNSD", keep_prob=0.5)
    assert fourth[4:6] == (2, 36)
    again = front.npu_fusion_attention(*given, N, "BNSD", keep_prob=0.5, seed=2, offset=36)
    assert np.array_equal(fourth[0], again[0].detach().numpy())


GRADIENTS = {
    "npu_fusion_attention": "npu_fusion_attention_grad",
    "npu_fusion_attention_v2": "npu_fusion_attention_grad_v2",
    "npu_fusion_attention_v3": "npu_fusion_attention_grad_v3",
}


@pytest.mark.parametrize("name", GRADIENTS)
@pytest.mark.parametrize("arrays", [False, True])
def test_gradient_functions_replay_dropout_and_return_every_gradient(name, arrays):
    given = operands()
    pse, sink = randn(1, N, SQ, SKV, seed=5).requires_grad_(), randn(N, seed=6).requires_grad_()
    words = {"keep_prob": 0.6, "pse": pse, "sink": sink}
    generator.manual_seed(11)
    out, top, total, reserved, *numbers = getattr(front, name)(*given, N, "BNSD", scale=0.3, **words)
    dy = randn(*out.shape, seed=9)
    expected = torch.autograd.grad(out, [*given, pse, sink], dy)
    words |= {"softmax_max": top, "softmax_sum": total, "attention_in": out}
    words |= dict(zip(("seed", "offset", "numels"), numbers))
    positional, module = [*given, dy], front
    if arrays:
        module = numpy_front
        convert = lambda x: x.detach().numpy() if isinstance(x, torch.Tensor) else x  # noqa: E731
        positional, words = [convert(x) for x in positional], {k: convert(v) for k, v in words.items()}
    results = getattr(module, GRADIENTS[name])(*positional, N, "BNSD", scale_value=0.3, **words)
    if name.endswith("v2"):
        dq, dk, dv, dpse, dq_rope, dk_rope, dsink = results
        assert dq_rope is None and dk_rope is None
    else:
        dq, dk, dv, dpse, dsink = results
    for a, b in zip((dq, dk, dv, dpse, dsink), expected):
        assert torch.equal(torch.as_tensor(a), b)


def test_gradient_of_version_3_needs_the_seed():
    given = [x.detach() for x in operands()]
    out, top, total, *_ = front.npu_fusion_attention_v3(*given, N, "BNSD", keep_prob=0.5)
    saved = {"softmax_max": top, "softmax_sum": total, "attention_in": out, "keep_prob": 0.5}
    with pytest.raises(RuntimeError, match="^seed: got None"):
        front.npu_fusion_attention_grad_v3(*given, out, N, "BNSD", **saved)
    with pytest.raises(RuntimeError, match="^seed: got a torch.int64 tensor of shape"):
        pair = {"seed": torch.zeros(2, dtype=torch.int64), "offset": torch.zeros(1, dtype=torch.int64)}
        front.npu_fusion_attention_grad_v3(*given, out, N, "BNSD", **saved, **pair)


def test_masks_of_the_generator():
    like = torch.empty(0)
    for count in (0, 1, 128, 129, 5000):
        assert front._npu_dropout_gen_mask(like, [count], 0.5, 1, 0).shape == (-(-count // 128) * 16,)
    assert front._npu_dropout_gen_mask(like, [300], 0.0, 1, 0).eq(255).all()
    assert front._npu_dropout_gen_mask(like, [300], 1.0, 1, 0).eq(0).all()
    plain = front._npu_dropout_gen_mask(like, [3, 100], 0.3, 7, 12)
    assert torch.equal(
        plain, front._npu_dropout_gen_mask(like, (300,), 0.3, 7, 12, parallel=False, sync=True)
    )
    generator.manual_seed(7)
    generator.draw()
    assert torch.equal(plain, front.npu_dropout_gen_mask([300], 0.3, dtype=torch.uint8, device="cpu"))
    for argument, words in (
        ("p", ([4], 1.5, 0, 0)),
        ("size", ([-4], 0.5, 0, 0)),
        ("seed", ([4], 0.5, "1", 0)),
    ):
        with pytest.raises((RuntimeError, TypeError), match=f"^{argument}: got .*, allowed "):
            front._npu_dropout_gen_mask(like, *words)


# --- sink, rope ---


def test_sink():
    seen = KEY <= ROW - 1  # row 0 sees the sink alone
    check(
        [*operands(), randn(N, seed=4)],
        lambda q, k, v, s: front.npu_fusion_attention(
            q, k, v, N, "BNSD", scale=0.4, atten_mask=~seen, sparse_mode=1, sink=s
        ),
        lambda q, k, v, s: dense(q, k, v, 0.4, seen, sink=s),
    )


@pytest.mark.parametrize("layout", ["BNSD", "BSH", "SBH", "TND"])
def test_rope(layout):
    """More channels of query and key, in tensors of their own."""
    query, key, value = operands()
    extra = [randn(B, n, s, 3, seed=7 + n) for n, s in ((N, SQ), (KV, SKV))]
    lengths = {"actual_seq_qlen": [SQ, 2 * SQ], "actual_seq_kvlen": [SKV, 2 * SKV]} if layout == "TND" else {}

    def laid(x):  # [B, N, S, D]
        if layout == "BNSD":
            return x
        if layout == "TND":
            return x.transpose(1, 2).flatten(0, 1)
        merged = x.transpose(1, 2).flatten(2)
        return merged if layout == "BSH" else merged.transpose(0, 1)

    leaves = [laid(x.detach()).contiguous().requires_grad_() for x in (query, key, value, *extra)]
    out, *_ = front.npu_fusion_attention_v2(
        *leaves[:3], N, layout, scale=0.4, query_rope=leaves[3], key_rope=leaves[4], **lengths
    )
    exact = [x.detach().double().requires_grad_() for x in (query, key, value, *extra)]
    joined = [torch.cat(pair, -1) for pair in ((exact[0], exact[3]), (exact[1], exact[4]))]
    expected = dense(*joined, exact[2], 0.4)[0]
    torch.testing.assert_close(out.double(), laid(expected), rtol=1e-5, atol=1e-5)
    dy = randn(*expected.shape, seed=9)
    expected.backward(dy.double())
    for a, b in zip(torch.autograd.grad(out, leaves, laid(dy)), exact):
        torch.testing.assert_close(a.double(), laid(b.grad), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sink", [-1.0, -2000.0], ids=["some weight", "weight 0"])
def test_a_nan_row_reaches_the_gradient_of_its_sink(sink):
    query, key, value = (x.detach() for x in operands())
    value[0, 0, 3, 2] = math.nan  # kv head 0: query heads 0 and 1
    sinks = torch.full((N,), sink, requires_grad=True)
    front.npu_fusion_attention(query, key, value, N, "BNSD", sink=sinks)[0].sum().backward()
    assert sinks.grad[:2].isnan().all() and sinks.grad[2:].isfinite().all()
