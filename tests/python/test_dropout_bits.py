"""_npu_dropout_gen_mask against Philox4x32-10 in NumPy (training-ops 6.3, fp32 rule for every dtype)."""

from __future__ import annotations

import math
import os

import numpy as np
import pytest
from statement_dropout import drop_probability, kept_by_mask, kept_by_seed, packed

torch = pytest.importorskip("torch")

FRESH = int(os.environ["FUSION_ATTENTION_SEED"])  # conftest.py
CASES = [*range(150), *(FRESH + case for case in range(100))]
EDGES = [1, 2, 3, 4, 5, 7, 8, 63, 64, 65, 127, 128, 129, 255, 256, 257, 1000]
KEEP = [0.9, 0.5, 0.1, 0.99, 0.625, 0.75, 1 / 3, 1 - 2**-23, 2**-20, 0.999]


def bits_of(size, keep_prob, seed, offset, **ignored):
    from fusion_attention.torch import _npu_dropout_gen_mask

    like = torch.empty(0)
    return _npu_dropout_gen_mask(like, size, 1 - keep_prob, seed, offset, **ignored).numpy()


def draw(case: int):
    """size, keep_prob, seed, offset."""
    rng = np.random.default_rng([case, 7])
    size = [int(rng.choice(EDGES)) for _ in range(int(rng.integers(1, 5)))]
    while math.prod(size) > 300_000:
        size.pop()
    keep_prob = float(rng.choice(KEEP)) if rng.random() < 0.7 else float(rng.uniform(0.01, 1))
    seed = int(rng.integers(-(2**63), 2**63 - 1)) if rng.random() < 0.5 else int(rng.integers(0, 5000))
    offset = int(rng.choice([0, 12, 24, 2**31, 2**32 - 1, 2**32, 2**62])) + int(rng.integers(0, 3))
    return size, keep_prob, seed, offset


@pytest.mark.parametrize("case", CASES)
def test_bits_are_those_of_the_document(case):
    size, keep_prob, seed, offset = draw(case)
    count = math.prod(size)
    got = bits_of(size, keep_prob, seed, offset)
    said = f"case {case}: size {size}, keep_prob {keep_prob!r}, seed {seed}, offset {offset}"
    assert got.dtype == np.uint8 and got.shape == (-(-count // 128) * 16,), said
    documented = kept_by_seed(0, count, drop_probability(keep_prob), seed, offset)
    different = kept_by_mask(0, count, got) != documented
    assert not different.any(), f"{different.sum()} of {count} bits, the first {different.argmax()}; {said}"


@pytest.mark.parametrize("keep_prob", KEEP)
@pytest.mark.parametrize("seed", [1, 2, 2**40 + 3])
def test_keep_rate(keep_prob, seed):
    count = 1 << 18
    kept = kept_by_mask(0, count, bits_of([4, count // 4], keep_prob, seed, 12)).mean()
    deviation = math.sqrt(keep_prob * (1 - keep_prob) / count)
    assert abs(kept - keep_prob) <= 4 * deviation + 2.0**-23, (kept, keep_prob, seed)


@pytest.mark.parametrize("count", [1, 127, 128, 129, 1000])
def test_certain_probabilities_fill_the_buffer(count):
    assert (bits_of([count], 1.0, 3, 4) == 0xFF).all()
    assert (bits_of([count], 0.0, 3, 4) == 0).all()


def test_only_the_number_of_scores_counts_and_switches_change_nothing():
    same = bits_of([2, 3, 5, 7], 0.7, 5, 12)
    for size in ([210], [7, 30], [1, 210, 1]):
        np.testing.assert_array_equal(bits_of(size, 0.7, 5, 12), same)
    np.testing.assert_array_equal(bits_of([210], 0.7, 5, 12, parallel=False, sync=True), same)


def test_a_longer_mask_begins_with_the_shorter():
    long = kept_by_mask(0, 5000, bits_of([5000], 0.6, 9, 24))
    for count in (1, 130, 4097):
        np.testing.assert_array_equal(kept_by_mask(0, count, bits_of([count], 0.6, 9, 24)), long[:count])


def test_a_call_without_a_seed_takes_the_next_of_the_generator():
    """Section 6.2: ten words a call, rounded up to twelve."""
    import fusion_attention.numpy as front
    from fusion_attention import generator

    x = np.ones((1, 2, 9, 4), np.float32)
    generator.manual_seed(2)
    drawn = [front.npu_fusion_attention(x, x, x, 2, "BNSD", keep_prob=0.5)[4:] for _ in range(3)]
    assert drawn == [(2, 0, 162), (2, 12, 162), (2, 24, 162)]


def test_a_given_mask_is_the_seed_that_made_it():
    """The attention keeps the same scores by seed as by the mask of that seed."""
    import fusion_attention.numpy as front

    rng = np.random.default_rng(11)
    q, k, v = (rng.standard_normal((2, 3, 37, 16)).astype(np.float32) for _ in range(3))
    mask = bits_of([2, 3, 37, 37], 0.8, 77, 12)
    np.testing.assert_array_equal(
        kept_by_mask(
            0, 2 * 3 * 37 * 37, packed(kept_by_seed(0, 2 * 3 * 37 * 37, drop_probability(0.8), 77, 12))
        ),
        kept_by_mask(0, 2 * 3 * 37 * 37, mask),
    )
    by_seed = front.npu_fusion_attention_v2(q, k, v, 3, "BNSD", keep_prob=0.8, seed=77, offset=12)
    by_mask = front.npu_fusion_attention_v2(q, k, v, 3, "BNSD", keep_prob=0.8, dropout_mask=mask)
    np.testing.assert_array_equal(by_seed[0], by_mask[0])
