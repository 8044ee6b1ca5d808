"""The inference operators read MindSpore's memory and hand out their own: nothing is copied in PyNative."""

import time

import fusion_attention.inference.numpy as front
import mindspore as ms
import numpy as np
import pytest
from fusion_attention.mindspore import incre_flash_attention, prompt_flash_attention
from mindspore import Tensor

WORDS = {"num_heads": 2, "input_layout": "BNSD", "scale_value": 0.25}


def tensors(dtype, *names):
    rng = np.random.default_rng(3)
    rows = {"query": 1, "key": 8, "value": 8}
    return [
        Tensor(rng.standard_normal((2, 2, rows[name], 16)).astype(np.float32)).astype(dtype) for name in names
    ]


@pytest.mark.parametrize(
    ("function", "dtype"),
    [
        (prompt_flash_attention, ms.float16),
        (prompt_flash_attention, ms.bfloat16),
        (incre_flash_attention, ms.float16),
        (incre_flash_attention, ms.float32),
    ],
    ids=["prompt-float16", "prompt-bfloat16", "incre-float16", "incre-float32"],
)
def test_nothing_is_copied(monkeypatch, function, dtype):
    given = tensors(dtype, "query", "key", "value")
    mask = Tensor(np.arange(16).reshape(2, 1, 8) % 3 == 0)
    seen = []
    compute = front.attend

    def watch(row, query, key, value, words):
        out = compute(row, query, key, value, dict(words))
        seen.extend(x.ctypes.data for x in (query, key, value, words["atten_mask"], out))
        return out

    monkeypatch.setattr(front, "attend", watch)
    mode = {"sparse_mode": 1} if function is prompt_flash_attention else {}
    out = function(*given, mask, **WORDS, **mode)
    assert seen == [tensor.data_ptr() for tensor in (*given, mask, out)]


def test_cost_of_a_round_trip():
    """A call too small to compute anything, on MindSpore's tensors and on NumPy's arrays."""
    given = tensors(ms.float16, "query", "query", "query")
    arrays = [tensor.asnumpy() for tensor in given]

    def cost(call, operands):
        spans = []
        for _ in range(300):
            start = time.perf_counter()
            call(*operands, **WORDS)
            spans.append(time.perf_counter() - start)
        return 1e6 * float(np.median(spans))

    ours = cost(prompt_flash_attention, given)
    numpys = cost(front.prompt_flash_attention, arrays)
    print(f"\nnote: a small call of {ours:.0f} µs on MindSpore tensors, {numpys:.0f} µs on NumPy arrays")
    assert ours < numpys + 500
