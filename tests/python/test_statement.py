"""The statement against itself: central differences, published vectors, the mode table read by hand.

Nothing here calls the library.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
from family_calls import draw
from statement import GRADIENT_OF, Statement
from statement_arithmetic import Answer
from statement_bias import bias
from statement_dropout import drop_probability, kept_by_mask, kept_by_seed, packed, philox
from statement_mask import kept

FRESH = int(os.environ["FUSION_ATTENTION_SEED"])  # conftest.py
SEEDS = [*range(30), *(FRESH + i for i in range(10))]
ALL = np.iinfo(np.uint32).max
# Random123, kat_vectors, philox4x32-10: counter, key, words.
VECTORS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ALL, ALL, ALL, ALL), (ALL, ALL), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def in_float64(seed: int) -> tuple[dict, str] | None:
    """A drawn call with arrays of float64 and a seed of its own; None if it holds NaN."""
    call, dtype, line = draw(seed)
    for name in GRADIENT_OF:
        if name in call:
            call[name] = call[name].astype(np.float64)
            if np.isnan(call[name]).any():
                return None
    call.setdefault("seed", 5), call.setdefault("offset", 12)
    return call, line


def loss(call: dict, dy: np.ndarray) -> float:
    return float((Statement(call, "float32").forward()[0].value * dy).sum())


def saved(statement: Statement):
    """out and the statistics as an operator returns them, in float64."""
    out, tops, totals = statement.forward()
    return out.value, *(statement.statistics(answers).value for answers in (tops, totals))


@pytest.mark.parametrize("seed", SEEDS)
def test_gradients_are_central_differences(seed):
    """Along a random direction of each differentiable argument."""
    drawn = in_float64(seed)
    if drawn is None:
        return
    call, line = drawn
    rng = np.random.default_rng([seed, 1])
    statement = Statement(call, "float32")
    results = saved(statement)
    dy = rng.standard_normal(results[0].shape)
    gradients = statement.backward(dy, *results)
    for name, gradient in GRADIENT_OF.items():
        if name not in call:
            assert gradients[gradient] is None, line
            continue
        direction = rng.standard_normal(call[name].shape)
        step = 1e-6
        ahead, behind = (loss({**call, name: call[name] + sign * step * direction}, dy) for sign in (1, -1))
        expected, terms = (ahead - behind) / (2 * step), gradients[gradient].value * direction
        # The difference of two losses keeps about 1e-16·|loss| / step; the curvature adds step².
        size = np.abs(terms).sum() + 1e-3 * np.abs(dy * results[0]).sum()
        assert abs(terms.sum() - expected) <= 1e-5 * size + 1e-8, (
            f"{gradient}: {terms.sum()}, {expected}\n{line}"
        )


def test_every_gradient_is_differentiated():
    drawn = [in_float64(seed) for seed in range(30)]
    assert {name for each in drawn if each for name in GRADIENT_OF if name in each[0]} == set(GRADIENT_OF)


@pytest.mark.parametrize("counter, key, words", VECTORS)
def test_philox_gives_the_published_words(counter, key, words):
    assert tuple(int(w) for w in philox([np.array(c) for c in counter], key)) == words


def test_bits_of_a_part_are_those_of_the_whole():
    whole = kept_by_seed(0, 1000, drop_probability(0.7), -3, 2**40 + 12)
    for first, count in ((0, 1), (3, 2), (5, 9), (997, 3)):
        part = kept_by_seed(first, count, drop_probability(0.7), -3, 2**40 + 12)
        np.testing.assert_array_equal(part, whole[first : first + count])
        np.testing.assert_array_equal(kept_by_mask(first, count, packed(whole)), part)
    assert packed(whole).size == 128


PICTURES = {  # [Sq = 4, Skv = 6] and [6, 4], drawn by hand from the table of training-ops 4.2
    ("wide", 2): "#..... ##.... ###... ####..",
    ("wide", 3): "###... ####.. #####. ######",
    ("wide", 4): "###... .###.. ..###. ...###",  # pre 2, next 0
    ("wide", 0): "##.... ###... .###.. ..###.",  # pre 1, next 1
    ("wide", 6): "####.. ####.. #####. ######",  # prefix 4
    ("tall", 2): "#... ##.. ###. #### #### ####",
    ("tall", 3): ".... .... #... ##.. ###. ####",
    ("tall", 6): "##.. ##.. ##.. ##.. ###. ####",  # prefix 2
}
TOKENS = {4: {"pre_tokens": 2, "next_tokens": 0}, 0: {"pre_tokens": 1, "next_tokens": 1}}


@pytest.mark.parametrize("size, mode", PICTURES)
def test_masks_look_as_drawn(size, mode):
    rows, keys = (4, 6) if size == "wide" else (6, 4)
    call = {"head_num": 1, "input_layout": "BNSD", "sparse_mode": mode, **TOKENS.get(mode, {})}
    call["atten_mask"] = np.zeros((rows, keys), bool)
    call["prefix"] = [4 if size == "wide" else 2]
    picture = [["." if hidden else "#" for hidden in row] for row in ~kept(call, 0, [rows], [keys])[0]]
    assert " ".join("".join(row) for row in picture) == PICTURES[size, mode]


def sees(call: dict, b: int, i: int, j: int, q_lens: list[int], kv_lens: list[int]) -> bool:
    """One pair, by the words of the table."""
    mode, apart = call["sparse_mode"], kv_lens[b] - q_lens[b]
    pre, post = call["pre_tokens"], call["next_tokens"]
    used = [c for c, rows in enumerate(q_lens) if rows]
    hidden = mode in (0, 1, 5) and call["atten_mask"][i, j]
    if mode == 1:
        return not hidden
    if mode == 0:
        return not hidden and i - pre <= j <= i + post
    if mode == 2:
        return j <= i
    if mode == 3:
        return j - i <= apart
    if mode == 4:
        return -pre <= j - i - apart <= post
    if mode in (5, 6):
        return not hidden and (j - i <= apart or j < call["prefix"][b])
    if mode == 7:
        return j - i <= apart + post if b == used[-1] else j - i <= apart
    return j - i <= apart + post if b == used[0] else j <= i


@pytest.mark.parametrize("mode", range(9))
def test_masks_are_the_table_read_pair_by_pair(mode):
    rng = np.random.default_rng([FRESH, mode])
    for _ in range(20):
        q_lens, kv_lens = ([int(n) for n in rng.integers(0, 9, 4)] for _ in range(2))
        q_lens[int(rng.integers(4))] = 7
        call = {"head_num": 2, "input_layout": "TND", "sparse_mode": mode}
        call["pre_tokens"], call["next_tokens"] = int(rng.integers(0, 9)), int(rng.integers(-4, 5))
        call["atten_mask"] = rng.random((9, 9)) < 0.4
        call["prefix"] = [int(rng.integers(max(b - a, 0), b + 1)) for a, b in zip(q_lens, kv_lens)]
        for b, (rows, keys) in enumerate(zip(q_lens, kv_lens)):
            got = kept(call, b, q_lens, kv_lens)
            for i, j in np.ndindex(rows, keys):
                assert (got[:, i, j] == sees(call, b, i, j, q_lens, kv_lens)).all(), (FRESH, call, b, i, j)


@pytest.mark.parametrize("layout", ["BNSD", "TND"])
@pytest.mark.parametrize("size", [1024, 1025, 1500, 2048, 2100])
def test_compressed_bias_stands_for_the_full_matrix(layout, size):
    """The last 1024 rows of a bias of j − i give back every causal pair of all rows."""
    of_distance = np.random.default_rng(size).standard_normal((2, 2 * size))  # [N, j − i + size]
    i, j = np.ogrid[:size, :size]
    full = of_distance[:, j - i + size]
    call = {"head_num": 2, "input_layout": layout, "pse": full[None, :, -1024:], "pse_type": 0}
    causal = np.broadcast_to(j <= i, full.shape)
    np.testing.assert_array_equal(bias(call, 0, [size], [size])[causal], full[causal])


def test_flattened_bias_of_packed_sequences():
    rng = np.random.default_rng(3)
    q_lens, kv_lens = [3, 1, 4], [2, 5, 4]
    blocks = [rng.standard_normal((2, a, b)) for a, b in zip(q_lens, kv_lens)]
    call = {"head_num": 2, "input_layout": "TND", "pse": np.concatenate([b.reshape(-1) for b in blocks])}
    per_key = [rng.standard_normal((2, 1, b)) for b in kv_lens]
    short = {**call, "pse": np.concatenate([b.reshape(-1) for b in per_key])}
    for b in range(3):
        np.testing.assert_array_equal(bias(call, b, q_lens, kv_lens), blocks[b])
        got = bias(short, b, q_lens, kv_lens)
        np.testing.assert_array_equal(got, np.broadcast_to(per_key[b], got.shape))


@pytest.mark.parametrize("kind", [2, 3])
def test_slopes_are_a_penalty_on_the_distance(kind):
    call = {"head_num": 2, "input_layout": "TND", "pse": np.array([1.0, 0.5]), "pse_type": kind}
    call.update(q_start_idx=[7], kv_start_idx=[3])
    for mode, starts in ((3, [(7, 3), (7, 3)]), (8, [(7, 3), (0, 0)])):
        for b, (q0, kv0) in enumerate(starts):
            got = bias({**call, "sparse_mode": mode}, b, [4, 4], [4, 4])
            for n, i, j in np.ndindex(2, 4, 4):
                apart = abs((j + kv0) - (i + q0))
                assert got[n, i, j] == -call["pse"][n] * (apart if kind == 2 else apart**0.5)


def softmax_by_hand(q, k, v, pse, kind, keep, kept_bits, keep_prob, scale, sink):
    """One head as training-ops 3 lists it, with a sink as one more column: q [Sq, D]."""
    out = np.zeros((len(q), v.shape[1]))
    for i in range(len(q)):
        logits, values = [], []
        for j in range(len(k)):
            if not keep[i, j]:
                continue
            s = float(q[i] @ k[j])
            logits.append((s + pse[i, j]) * scale if kind == 1 else s * scale + pse[i, j])
            values.append(v[j] / keep_prob if kept_bits[i, j] else 0 * v[j])
        if sink is not None:
            logits.append(sink), values.append(0 * v[0])
        if logits:
            p = np.exp(np.array(logits) - max(logits))
            out[i] = (p / p.sum()) @ np.array(values)
    return out


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize("has_sink", [False, True])
def test_forward_is_the_list_of_the_document(kind, has_sink):
    rng = np.random.default_rng(17 + kind)
    batches, heads, rows, keys, depth = 2, 3, 5, 7, 4
    q, k, v = (rng.standard_normal((batches, heads, n, depth)) for n in (rows, keys, keys))
    hidden, pse = rng.random((batches, 1, rows, keys)) < 0.4, rng.standard_normal((1, heads, rows, keys))
    hidden[0, 0, 2] = True
    sink = rng.standard_normal(heads) if has_sink else None
    call = {"query": q, "key": k, "value": v, "head_num": heads, "input_layout": "BNSD", "scale": 0.7}
    call.update(atten_mask=hidden, pse=pse, pse_type=kind, keep_prob=0.75, seed=9, offset=0, sink=sink)
    bits = kept_by_seed(0, batches * heads * rows * keys, np.float32(0.25), 9, 0)
    bits = bits.reshape(batches, heads, rows, keys)
    out, tops, totals = Statement(call, "float32").forward()
    for b, n in np.ndindex(batches, heads):
        logit = None if sink is None else sink[n]
        rest = (pse[0, n], kind, ~hidden[b, 0], bits[b, n], 0.75, 0.7, logit)
        by_hand = softmax_by_hand(q[b, n], k[b, n], v[b, n], *rest)
        np.testing.assert_allclose(out.value[b, n], by_hand, rtol=1e-12, atol=1e-14)
    if not has_sink:  # ruling 4
        assert tops[0].value[0, 2] == -np.finfo(np.float32).max and totals[0].value[0, 2] == 1


@pytest.mark.parametrize("seed", range(20))
def test_bounds_see_one_wrong_value(seed):
    """The last visible key's value off by 1 must leave the bound of the right answer somewhere."""
    call, _, line = draw(seed)
    for name in ("pse", "dropout_mask", "keep_prob"):
        call.pop(name, None)
    call.update(scale=0.01, pse_type=1)
    statement = Statement(call, "float32")
    right: Answer = statement.forward()[0]
    for b in range(len(statement.v)):
        keep = kept(call, b, statement.q_lens, statement.kv_lens).any((0, 1))
        statement.v[b] = statement.v[b].copy()
        statement.v[b][:, np.nonzero(keep)[0][-1:]] += 1
    wrong = statement.forward()[0]
    assert (np.abs(wrong.value - right.value) > right.bound).any() or not right.value.any(), line
