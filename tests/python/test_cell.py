"""The acctransformer cell on NumPy arrays and torch tensors, against the document's statement in float64."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import warnings

import fusion_attention.cell.numpy as front
import numpy as np
import pytest
import torch
from cell_statement import Cell
from family_draw import DTYPES
from fusion_attention.cell import FlashAttention
from fusion_attention.cell.words import checked
from statement_dropout import drop_probability, kept_by_seed

SEED = int(os.environ["FUSION_ATTENTION_SEED"])
DOCUMENT = {
    "head_dim": inspect.Parameter.empty,
    "dropout_rate": 0.0,
    "prev_block_num": 65536,
    "next_block_num": 65536,
    "tiling_stgy_name": "sparse",
    "dp": 1,
    "mp": 1,
    "have_attention_mask_batch": True,
    "alibi": False,
}


def small_mask(tile=128, dtype=np.float16):
    return np.triu(np.ones((1, tile, tile), dtype), k=1)


def operands(rng, dtype, batches, heads, rows, keys, depth):
    """Query, key, value and an output's gradient."""
    shapes = [(batches, heads, n, depth) for n in (rows, keys, keys, rows)]
    return [rng.standard_normal(shape).astype(np.float32).astype(DTYPES[dtype]) for shape in shapes]


def words_of(**words):
    return checked(*(DOCUMENT | words).values())


def check(words, arrays, mask=None, alibi=None, dtype="float16", seed=0, label=""):
    """Forward and gradient of one call; the worst ratio of error to bound, which must not pass 1."""
    q, k, v, dy = arrays
    wide = (None if x is None else x.astype(np.float64) for x in (q, k, v, mask, alibi))
    statement = Cell(words, *wide, dtype)
    if words.get("dropout_rate"):
        shape = (*q.shape[:3], k.shape[2])
        drop = drop_probability(1 - words["dropout_rate"])
        statement.kept = kept_by_seed(0, int(np.prod(shape)), drop, seed, 0).reshape(shape)
    given = words_of(head_dim=q.shape[3], **words), (q, k, v, mask, alibi), seed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        results = front.forward(*given)
    gradients = front.backward(*given, dy, results)
    answers = [statement.forward(), *statement.backward(dy.astype(np.float64))]
    worst = 0.0
    for name, got, answer in zip(("out", "dq", "dk", "dv"), (results[0], *gradients), answers):
        assert got.dtype == q.dtype and got.shape == answer.value.shape
        ratio = np.abs(got.astype(np.float64) - answer.value) / answer.bound
        assert np.isfinite(ratio).all() and ratio.max() <= 1, f"{name} {ratio.max()} {label} {words}"
        worst = max(worst, ratio.max())
    return worst


def test_signature_is_the_documents():
    parameters = list(inspect.signature(FlashAttention).parameters.values())
    assert {p.name: p.default for p in parameters} == DOCUMENT
    call = list(inspect.signature(FlashAttention.construct).parameters)
    assert call == ["self", "query", "key", "value", "attention_mask", "alibi_mask"]


@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize("strategy, tile", [("sparse", 128), ("xunfei", 128), ("wukong", 64)])
@pytest.mark.parametrize("prev, after", [(65536, 0), (1, 0), (0, 0), (2, 1), (0, 2), (65536, 65536)])
def test_small_mask(dtype, strategy, tile, prev, after):
    rng = np.random.default_rng(SEED)
    words = {"tiling_stgy_name": strategy, "prev_block_num": prev, "next_block_num": after}
    arrays = operands(rng, dtype, 2, 2, 450, 450, 32)
    check(words, arrays, small_mask(tile), dtype=dtype, label=f"FUSION_ATTENTION_SEED={SEED}")


def draw_mask(rng, batches, rows, keys, tile):
    """One of the kinds that the document knows, and those that it does not forbid."""
    shape = (1, tile, tile) if rng.integers(2) else (rng.choice([1, batches]), rows, keys)
    kind = rng.choice(["none", "causal", "binary", "fractional", "one row masked", "all", "zero", "bytes"])
    if kind == "none":
        return None, kind
    mask = {
        "causal": np.triu(np.ones(shape), k=1),
        "binary": rng.integers(0, 2, shape),
        "bytes": rng.integers(0, 2, shape),
        "fractional": rng.choice([0, 0.0005, 0.25, 1], shape),
        "one row masked": np.triu(np.ones(shape), k=1),
        "all": np.ones(shape),
        "zero": np.zeros(shape),
    }[kind]
    if kind == "one row masked":
        mask[:, rng.integers(shape[1])] = 1
    kinds = [np.uint8, np.int8, np.bool_] if kind == "bytes" else [np.float16, np.float32]
    return mask.astype(rng.choice(kinds)), kind


@pytest.mark.parametrize("case", range(int(os.environ.get("FUSION_ATTENTION_CELL_CALLS", "120"))))
def test_random_calls(case):
    rng = np.random.default_rng([SEED, case])
    strategy = str(rng.choice(["sparse", "xunfei", "wukong"]))
    words = {
        "tiling_stgy_name": strategy,
        "prev_block_num": int(rng.choice([0, 1, 2, 65536])),
        "next_block_num": int(rng.choice([0, 0, 1, 2, 65536])),
        "alibi": bool(rng.integers(2)),
    }
    if rng.integers(4) == 0:
        words["dropout_rate"] = float(rng.choice([0.1, 0.5]))
    batches, heads = int(rng.integers(1, 3)), int(rng.integers(1, 4))
    rows = int(rng.choice([1, 5, 64, 100, 128, 129, 256, 300, 400]))
    keys = rows if rng.integers(3) else int(rng.choice([1, 64, 128, 257, 400]))
    dtype, depth = str(rng.choice(list(DTYPES))), int(rng.choice([8, 16, 40, 64, 128]))
    mask, kind = draw_mask(rng, batches, rows, keys, 64 if strategy == "wukong" else 128)
    alibi = None
    if words["alibi"]:
        alibi = rng.standard_normal((rng.choice([1, batches]), heads, 1, keys)).astype(np.float16)
    label = f"FUSION_ATTENTION_SEED={SEED} case {case} {kind} {dtype} {batches}x{heads} {rows}x{keys}x{depth}"
    arrays = operands(rng, dtype, batches, heads, rows, keys, depth)
    check(words, arrays, mask, alibi, dtype, seed=int(rng.integers(1 << 62)), label=label)


def test_a_fully_masked_row_is_an_ordinary_softmax():
    arrays = operands(np.random.default_rng(SEED), "float32", 1, 1, 128, 128, 16)
    q, k, v, _ = arrays
    mask = np.ones((1, 128, 128), np.float32)
    plain, masked = (front.forward(words_of(head_dim=16), (q, k, v, m, None))[0] for m in (None, mask))
    assert np.abs(plain).max() > 0.1
    np.testing.assert_allclose(masked, plain, atol=5e-3)  # −10000 leaves fp32 scores steps of 0.001


def test_without_batch_axis():
    rng = np.random.default_rng(SEED)
    q, k, v, _ = operands(rng, "float32", 2, 1, 40, 40, 8)
    mask = rng.integers(0, 2, (40, 40)).astype(np.float32)

    def forward(words, mask):
        return front.forward(words, (q, k, v, mask, None))[0]

    with_batch = forward(words_of(head_dim=8), np.stack([mask, mask]))
    without = words_of(head_dim=8, have_attention_mask_batch=False)
    for given in (mask, mask[None]):
        np.testing.assert_array_equal(forward(without, given), with_batch)
    with pytest.raises(ValueError, match="have_attention_mask_batch is False"):
        forward(without, np.stack([mask, mask]))
    with pytest.raises(ValueError, match="rank 3"):
        forward(words_of(head_dim=8), mask)


@pytest.mark.parametrize("dropout_rate", [0.0, 0.2])
def test_shards_are_the_slices(dropout_rate):
    """Each of the dp × mp slices, computed alone, is bitwise what the whole has there, gradients too."""
    q, k, v, dy = operands(np.random.default_rng(SEED), "float16", 4, 6, 200, 200, 32)
    settings = {"prev_block_num": 1, "next_block_num": 0, "dropout_rate": dropout_rate}
    words = words_of(head_dim=32, dp=2, mp=3, **settings)
    masks, seed = (small_mask(), None), 77
    whole = front.forward(words, (q, k, v, *masks), seed)
    gradients = front.backward(words, (q, k, v, *masks), seed, dy, whole)
    for b in range(0, 4, 2):
        for n in range(0, 6, 2):
            part = np.s_[b : b + 2, n : n + 2]
            alone = words_of(head_dim=32, **settings)
            sliced = q[part], k[part], v[part], *masks
            result = front.forward(alone, sliced, seed, whole=(b, n, 6))
            got = front.backward(alone, sliced, seed, dy[part], result, whole=(b, n, 6))
            np.testing.assert_array_equal(result[0], whole[0][part])
            for one, all_of_it in zip(got, gradients):
                np.testing.assert_array_equal(one, all_of_it[part])
            for one, all_of_it in zip(result[1:], whole[1:]):
                np.testing.assert_array_equal(one, all_of_it[b : b + 2, :, n : n + 2])


def test_shard_sets_dp_and_mp():
    cell = FlashAttention(8)
    q = np.ones((3, 4, 5, 8), np.float32)
    cell.shard(((3, 2, 1, 1),) * 3)
    assert cell(q, q, q).shape == q.shape
    cell.shard(((2, 2, 1, 1),) * 3)
    with pytest.raises(ValueError, match="dp: got 2"):
        cell(q, q, q)
    cell.shard()
    assert cell(q, q, q).shape == q.shape
    for wrong in (7, ((1, 1),), ((1, 1, 2, 1),), ((0, 1, 1, 1),), ()):
        with pytest.raises(ValueError):
            cell.shard(wrong)


def test_warns_of_tiles_that_the_small_mask_leaves_open():
    q = np.ones((1, 1, 300, 8), np.float16)
    with pytest.warns(UserWarning, match="tiles of the diagonal alone"):
        FlashAttention(8)(q, q, q, small_mask())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FlashAttention(8, next_block_num=0)(q, q, q, small_mask())
        short = q[:, :, :100]
        FlashAttention(8)(short, short, short, small_mask())  # one tile: nothing after it


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_torch_is_numpy(dtype):
    rng = np.random.default_rng(SEED)
    arrays = operands(rng, dtype, 2, 2, 200, 200, 32)
    alibi = rng.standard_normal((2, 2, 1, 200)).astype(np.float32)
    words = {"head_dim": 32, "prev_block_num": 0, "next_block_num": 0, "alibi": True}
    given = words_of(**words), (*arrays[:3], small_mask(), alibi), 0
    results = front.forward(*given)
    expected = (results[0], *front.backward(*given, arrays[3], results))

    def tensor(x):
        kind = getattr(torch, x.dtype.name)
        return torch.from_numpy(x.astype(np.float32)).to(kind)

    q, k, v, dy = (tensor(x) for x in arrays)
    inputs = [x.transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for x in (q, k, v)]
    result = FlashAttention(**words)(*inputs, tensor(small_mask()), tensor(alibi))
    gradients = torch.autograd.grad(result, inputs, dy)
    for got, wanted in zip((result, *gradients), expected):
        np.testing.assert_array_equal(got.detach().float().numpy(), wanted.astype(np.float32))


def test_torch_dropout_follows_the_generator():
    cell = FlashAttention(16, dropout_rate=0.5)
    q = torch.randn(1, 2, 64, 16)
    torch.manual_seed(5)
    first, second = cell(q, q, q), cell(q, q, q)
    torch.manual_seed(5)
    assert torch.equal(cell(q, q, q), first) and not torch.equal(first, second)


def test_numpy_dropout_follows_the_generator():
    cell = FlashAttention(16, dropout_rate=0.5)
    q = np.random.default_rng(SEED).standard_normal((1, 2, 64, 16)).astype(np.float32)
    np.random.seed(5)
    first, second = cell(q, q, q), cell(q, q, q)
    np.random.seed(5)
    assert (cell(q, q, q) == first).all() and (first != second).any()


def test_strided_arrays():
    q = np.random.default_rng(SEED).standard_normal((2, 50, 3, 16)).astype(np.float16)
    mask = np.asfortranarray(np.triu(np.ones((2, 50, 50)), k=1).astype(np.float32))
    view = q.transpose(0, 2, 1, 3)
    cell, copy = FlashAttention(16), np.ascontiguousarray(view)
    expected = cell(copy, copy, copy, np.ascontiguousarray(mask))
    np.testing.assert_array_equal(cell(view, view, view, mask), expected)
    backwards = view[:, ::-1, ::-1]
    expected = cell(backwards.copy(), backwards.copy(), backwards.copy())
    np.testing.assert_array_equal(cell(backwards, backwards, backwards), expected)


WRONG_WORDS = [
    ({"head_dim": 0}, ValueError),
    ({"head_dim": 1 << 70}, ValueError),
    ({"head_dim": "8"}, TypeError),
    ({"head_dim": 8, "dropout_rate": 1.0}, ValueError),
    ({"head_dim": 8, "dropout_rate": -0.1}, ValueError),
    ({"head_dim": 8, "dropout_rate": float("nan")}, ValueError),
    ({"head_dim": 8, "dropout_rate": "0.1"}, TypeError),
    ({"head_dim": 8, "prev_block_num": -1}, ValueError),
    ({"head_dim": 8, "prev_block_num": 1.5}, TypeError),
    ({"head_dim": 8, "next_block_num": -1}, ValueError),
    ({"head_dim": 8, "tiling_stgy_name": "dense"}, ValueError),
    ({"head_dim": 8, "tiling_stgy_name": None}, TypeError),
    ({"head_dim": 8, "dp": 0}, ValueError),
    ({"head_dim": 8, "mp": -2}, ValueError),
    ({"head_dim": 8, "alibi": "no"}, TypeError),
]


@pytest.mark.parametrize("words, error", WRONG_WORDS)
def test_wrong_words(words, error):
    with pytest.raises(error, match=list(words)[-1]):
        FlashAttention(**words)


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


Q = zeros(2, 4, 6, 8)
ALIBI = {"alibi": True}
WRONG_CALLS = [
    ({}, (zeros(2, 4, 6, 7), Q, Q), ValueError, "query"),
    ({}, (zeros(2, 4, 8), Q, Q), ValueError, "query"),
    ({}, (zeros(2, 4, 6, 8, dtype=np.float64), Q, Q), TypeError, "query"),
    ({}, (Q.astype(">f4"), Q, Q), TypeError, "query"),
    ({}, (None, Q, Q), TypeError, "query"),
    ({}, ([[1.0]], Q, Q), TypeError, "query"),
    ({}, (Q, None, Q), TypeError, "key"),
    ({}, (Q, Q.astype(np.float16), Q), TypeError, "key"),
    ({}, (Q, zeros(2, 2, 6, 8), Q), ValueError, "key"),
    ({}, (Q, zeros(1, 4, 6, 8), Q), ValueError, "key"),
    ({}, (Q, zeros(2, 4, 6, 9), Q), ValueError, "key"),
    ({}, (Q, Q, zeros(2, 4, 5, 8)), ValueError, "value"),
    ({}, (Q, Q, torch.zeros(2, 4, 6, 8)), TypeError, "value"),
    ({}, (Q, Q, Q, zeros(2, 6, 5)), ValueError, "attention_mask"),
    ({}, (Q, Q, Q, zeros(3, 6, 6)), ValueError, "attention_mask"),
    ({}, (Q, Q, Q, zeros(2, 128, 128)), ValueError, "attention_mask"),
    ({}, (Q, Q, Q, zeros(1, 64, 64)), ValueError, "attention_mask"),
    ({}, (Q, Q, Q, zeros(2, 1, 6, 6)), ValueError, "attention_mask"),
    ({}, (Q, Q, Q, zeros(2, 6, 6, dtype=np.int64)), TypeError, "attention_mask"),
    ({"tiling_stgy_name": "wukong"}, (Q, Q, Q, zeros(1, 128, 128)), ValueError, "attention_mask"),
    ({}, (Q, Q, Q, None, zeros(2, 4, 1, 6)), ValueError, "alibi_mask"),
    (ALIBI, (Q, Q, Q), ValueError, "alibi_mask"),
    (ALIBI, (Q, Q, Q, None, zeros(2, 4, 6, 6)), ValueError, "alibi_mask"),
    (ALIBI, (Q, Q, Q, None, zeros(2, 4, 1, 6, dtype=np.uint8)), TypeError, "alibi_mask"),
    ({"dp": 3}, (Q, Q, Q), ValueError, "dp"),
    ({"mp": 3}, (Q, Q, Q), ValueError, "mp"),
]


@pytest.mark.parametrize("words, given, error, argument", WRONG_CALLS)
def test_wrong_calls(words, given, error, argument):
    with pytest.raises(error, match=f"^{argument}: got "):
        FlashAttention(8, **words)(*given)


def test_empty():
    for shape in ((0, 2, 3, 8), (2, 0, 3, 8), (2, 2, 0, 8)):
        q = zeros(*shape)
        assert FlashAttention(8)(q, q, q).shape == shape


LONG = """
import sys
import numpy as np
import fusion_attention.cell.numpy as front
from fusion_attention.cell.words import checked
rows, after, factor = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
rng = np.random.default_rng(1)
q, k, v, dy = (rng.standard_normal((1, 1, rows, 128), np.float32).astype(np.float16) for _ in range(4))
mask = (factor * np.triu(np.ones((1, 128, 128)), k=1)).astype(np.float16)
words = checked(128, 0.0, 7, after, "sparse", 1, 1, True, False)

def peak(reset=False):  # MiB
    if reset:
        open("/proc/self/clear_refs", "w").write("5")
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024

before = peak(reset=True)
given = q, k, v, mask, None
results = front.forward(words, given)
out = results[0]
print(peak() - before)
front.backward(words, given, 0, dy, results)
print(peak() - before)
for row in (rows - 1, rows // 2, 128 * 9 + 5):  # a row against its own softmax
    tile = row // 128
    first, last = max(tile - 7, 0) * 128, min((tile + after + 1) * 128, rows)
    y = k[0, 0, first:last].astype(np.float64) @ q[0, 0, row].astype(np.float64) / np.sqrt(128)
    y[tile * 128 - first :][:128] -= 10000 * mask[0, row % 128].astype(np.float64)
    p = np.exp(y - y.max())
    expected = p @ v[0, 0, first:last].astype(np.float64) / p.sum()
    assert np.abs(out[0, 0, row] - expected).max() < 2e-3, row
"""


LONG_CALLS = [(65536, 0, 1), (131072, 0, 1), (65536, 1, 1), (65536, 0, 1e-4)]


@pytest.mark.parametrize("rows, after, factor", LONG_CALLS)
def test_long_sequences_take_memory_of_their_own_size(rows, after, factor):
    """The document's sizes: N = 1, D = 128, a window of 7 blocks, forward and gradients, in O(S·D)."""
    command = [sys.executable, "-W", "ignore", "-c", LONG, str(rows), str(after), str(factor)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    operand = rows * 128 * 2 / 2**20
    forward, backward = map(float, done.stdout.split())
    more = f"forward {forward:.0f} MiB more, with gradients {backward:.0f} MiB"
    print(
        f"\nnote: cell, {rows} rows, {after} blocks after, mask × {factor}, operands of {operand} MiB: {more}"
    )
    # Output and gradients are four operands, dk and dv in float32 as many, and twice that where a second part
    # of the mask is joined; a thread's own memory comes on top.
    assert forward < 4 * operand + 64 and backward < 24 * operand + 64


def test_masks_cost_no_more_than_they_must():
    """What a mask comes to: an end of the band, bytes, tiles of the diagonal, numbers for all pairs."""
    q = zeros(2, 3, 1000, 8)
    everywhere = np.triu(np.ones((1, 1000, 1000), np.float16), k=1)

    def texts(mask=None, alibi=None, **words):
        words = words_of(head_dim=8, alibi=alibi is not None, **words)
        call, _ = front._call(False, words, (q, q, q, mask, alibi), 0, front.WHOLE)
        return [line.partition("scale=")[2].partition(" ")[2] for line in call.texts()]

    window = {"prev_block_num": 3, "next_block_num": 0}
    assert texts() == ["band(-inf,inf)"]
    assert texts(**window) == ["band(-384,127,0,128)"]
    assert texts(small_mask(), **window) == ["band(-384,127,0,128,0)"]
    assert texts(small_mask(), next_block_num=0) == ["band(-inf,127,0,128,0)"]
    assert texts(everywhere) == ["band(-inf,0)"]
    assert texts(1 - everywhere) == ["band(-inf,inf) bias(dense,qk,fp32)"]  # the last row is masked all over
    everywhere[:, :, 5] = 1
    assert texts(everywhere) == ["band(-inf,inf) overlay(qk)"]
    assert texts(np.zeros_like(everywhere)) == ["band(-inf,inf)"]
    assert texts(alibi=zeros(2, 3, 1, 1000)) == ["band(-inf,inf) bias(dense,bnk,fp32)"]
    diagonal, before, after = texts(small_mask(), prev_block_num=3, next_block_num=1)
    assert diagonal.count("-inf:inf") == 2 * 8 and diagonal.endswith("bias(dense,qk,fp32)")
    assert (before, after) == ("band(-384,-1,0,128)", "band(128,255,0,128)")
