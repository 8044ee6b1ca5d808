"""Strict mode: every row of the training interfaces has a call that passes outside and is refused inside."""

import asyncio
import os
import re
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import fusion_attention
import fusion_attention.numpy as fa
import ml_dtypes
import numpy as np
import pytest
import torch
from fusion_attention import _core, _limits_page
from fusion_attention.ascend import mindspeed_ops
from fusion_attention.ascend.ascend_flash_attention import ascend_flash_attention
from fusion_attention.ascend.npu_flash_attention import npu_flash_attention, npu_flash_attention_grad
from fusion_attention.ascend.ring import npu_ring_attention_update
from fusion_attention.cell import FlashAttention
from fusion_attention.torch import npu_fusion_attention_grad_v2, npu_fusion_attention_v2

INTERFACES = {
    "npu_fusion_attention",
    "mindspeed",
    "ascend_flash_attention",
    "npu_flash_attention",
    "npu_ring_attention_update",
    "flash_attention_cell",
}
LIMITS = {
    key: (interfaces, argument, allowed)
    for key, interfaces, argument, allowed, _ in _core.documented_limits()
    if set(interfaces) <= INTERFACES
}
PAIRS = [(key, interface) for key, (interfaces, *_) in LIMITS.items() for interface in interfaces]
BF16 = ml_dtypes.bfloat16
CAUSAL = np.triu(np.ones((2048, 2048), bool), 1)


def operands(query, key=None, value=None, dtype=np.float16):
    """Arrays of the shapes without memory of their own."""
    shapes = (query, key or query, value or key or query)
    return [np.broadcast_to(np.ones((), dtype), shape) for shape in shapes]


def dense(query=(1, 1, 256, 16), key=None, value=None, dtype=np.float16, layout="BNSD", **words):
    axis = {"BNSD": 1, "BSND": 2, "TND": 1}.get(layout.upper())
    heads = query[axis] if axis else words.pop("heads")
    return (*operands(query, key, value, dtype), heads, layout), words


def packed(q_ends, kv_ends=None, heads=1, depth=16, dtype=np.float16, layout="TND", **words):
    kv_ends = kv_ends or q_ends
    tokens, keys = max(*q_ends, 1), max(*kv_ends, 1)
    lists = {"actual_seq_qlen": q_ends, "actual_seq_kvlen": kv_ends}
    return dense((tokens, heads, depth), (keys, heads, depth), dtype=dtype, layout=layout, **lists, **words)


def ends(sequences):
    return list(range(1, sequences + 1))


def mask(*shape, dtype=bool):
    return np.zeros(shape, dtype)


def rope(layout="TND", dtype=BF16, **words):
    """A legal call with rope but for what is given; `None` takes an argument away."""
    parts = {
        "query_rope": np.ones((8, 1, 16), dtype),
        "key_rope": np.ones((8, 1, 16), dtype),
        "atten_mask": mask(8, 8),
    }
    if layout != "TND":
        parts = {name: x[None] if name != "atten_mask" else x for name, x in parts.items()}
        return dense((1, 8, 1, 16), dtype=dtype, layout=layout, **parts)
    parts.update(words)
    return packed([8], dtype=dtype, **{name: x for name, x in parts.items() if x is not None})


MILLION, K = 1 << 20, 1024
SLOPES = np.ones(1, np.float32)
# One call per row, of the first interface of the row that it can be made for: ((query, …, layout), words).
CASES = {
    "batch": lambda: dense((2 * MILLION + 1, 1, 1, 16)),
    "batch-mindspeed": lambda: dense((2 * K + 1, 1, 1, 16)),
    "sequences": lambda: packed(ends(2 * K + 1)),
    "heads": lambda: dense((1, 257, 1, 64)),
    "rows": lambda: dense((1, 1, MILLION + 1, 16), (1, 1, 1, 16)),
    "keys": lambda: dense((1, 1, 1, 16), (1, 1, MILLION + 1, 16)),
    "rows-mindspeed": lambda: dense((1, 1, MILLION // 2 + 1, 16), (1, 1, 1, 16)),
    "keys-mindspeed": lambda: dense((1, 1, 1, 16), (1, 1, MILLION // 2 + 1, 16)),
    "ends-mindspeed": lambda: packed([500_000, 1_000_001], [1, 2]),
    "rows-te": lambda: dense((1, 1, 257, 16)),
    "depth": lambda: dense((1, 1, 8, 832)),
    "depth-mindspeed": lambda: dense((1, 1, 8, 513)),
    "depth-te": lambda: dense((1, 1, 256, 144)),
    "depth-16": lambda: dense((1, 1, 256, 24)),
    "depth-cell": lambda: dense((1, 1, 128, 129)),
    "depth-64": lambda: packed([8], depth=72),
    "value-depth": lambda: dense((1, 1, 8, 16), value=(1, 1, 8, 17)),
    "value-shape": lambda: dense((1, 1, 8, 16), value=(1, 1, 8, 15)),
    "key-shape": lambda: dense((1, 1, 256, 16), (1, 1, 512, 16)),
    "value-like-query": lambda: dense((1, 1, 256, 16), value=(1, 1, 256, 32)),
    "no-keys": lambda: packed([4, 8], [8, 8]),
    "dtype-halves": lambda: dense(dtype=np.float32),
    "dtype-ascendspeed": lambda: dense((1, 8, 16), dtype=BF16, layout="BSH", heads=1),
    "dtype-cell": lambda: dense(dtype=np.float32),
    "mask-dtype": lambda: dense(atten_mask=mask(256, 256, dtype=np.int8)),
    "mask-dtype-halves": lambda: dense(atten_mask=mask(256, 256, dtype=np.uint8)),
    "layout-ascendspeed": lambda: dense(),
    "capitals": lambda: packed([8], layout="tnd", softmax_layout="TND"),
    "softmax-layout": lambda: packed([8], softmax_layout="tnd"),
    "mask-axes": lambda: dense((2, 2, 8, 16), atten_mask=mask(1, 2, 8, 8)),
    "mask-packed": lambda: packed([8], atten_mask=mask(1, 1, 8, 8)),
    "mask-plane": lambda: dense(atten_mask=mask(1, 1, 256, 256, dtype=np.float16)),
    "pse-heads": lambda: dense((1, 2, 8, 16), pse=np.zeros((1, 1, 8, 8), np.float16)),
    "pse-compressed": lambda: dense(
        (1, 1, 1100, 16),
        pse=np.zeros((1, 1, K, 1100), np.float16),
        atten_mask=CAUSAL,
        sparse_mode=4,
        next_tokens=0,
    ),
    "prefix-batch": lambda: dense(
        (33, 1, 4, 16), atten_mask=mask(3072, 2048), sparse_mode=6, prefix=[2] * 33
    ),
    "prefix-sequences": lambda: packed(
        ends(K + 1), atten_mask=mask(3072, 2048), sparse_mode=6, prefix=[1] * (K + 1)
    ),
    "prefix-mode-5": lambda: dense((1, 1, 8, 16), atten_mask=mask(8, 8), sparse_mode=5),
    "pse-modes": lambda: packed([8], pse=SLOPES, pse_type=2, atten_mask=CAUSAL, sparse_mode=8, next_tokens=0),
    "pse-empty": lambda: packed([4, 4], pse=SLOPES, pse_type=2),
    "slopes-lengths": lambda: dense((1, 1, 4, 16), (1, 1, 8, 16), pse=SLOPES, pse_type=3),
    "slopes-gradient": lambda: dense((1, 1, 8, 16), pse=SLOPES[None], pse_type=2),
    "tokens-mask": lambda: dense((1, 1, 8, 16), atten_mask=mask(8, 8), next_tokens=0),
    "inner-precise": lambda: dense((1, 1, 8, 16), inner_precise=3),
    "rope-layout": lambda: rope("BSND"),
    "rope-dtype": lambda: rope(dtype=np.float16),
    "rope-dropout": lambda: rope(keep_prob=0.5),
    "rope-pse": lambda: rope(pse=np.ones(64, BF16)),
    "rope-mask": lambda: rope(atten_mask=None),
    "rope-mode": lambda: rope(atten_mask=mask(3072, 2048), sparse_mode=6, prefix=[4]),
}
OTHER_CASES = {
    ("heads", "npu_ring_attention_update"): lambda: packed([8], heads=257, depth=64),
    ("depth", "npu_ring_attention_update"): lambda: packed([8], depth=832),
}
LARGE = 1 << 22  # scores of a call that is read and checked only


def call_fusion(arguments, words, backward):
    query, key = arguments[0], arguments[1]
    if backward:
        out, top, total, *_ = fa.npu_fusion_attention_v2(*arguments, **words)
        saved = {"softmax_max": top, "softmax_sum": total, "attention_in": out}
        fa.npu_fusion_attention_grad_v2(*arguments[:3], out, *arguments[3:], **saved, **words)
    elif query.shape[0] * query.shape[-2] * key.shape[0] * key.shape[-2] > LARGE:
        fa.examine(*arguments, **words)
    else:
        fa.npu_fusion_attention_v2(*arguments, **words)


def tensor(x):
    if not isinstance(x, np.ndarray):
        return x
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of arrays that cannot be written
        if x.dtype == BF16:
            return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(x)


def call_mindspeed(query, key, value, heads, layout, backward, words):
    out, top, total, *_ = mindspeed_ops.npu_fusion_attention(query, key, value, heads, layout, **words)
    if backward:
        saved = {"softmax_max": top, "softmax_sum": total, "attention_in": out}
        mindspeed_ops.npu_fusion_attention_grad(query, key, value, out, heads, layout, **saved, **words)


def call_ascendspeed(query, key, value, heads, layout, backward, words):
    out = npu_flash_attention(query, key, value, heads, layout, **words)
    if backward:
        saved = {"softmax_max": out.softmax_max, "softmax_sum": out.softmax_sum, "attention_in": out}
        npu_flash_attention_grad(query, key, value, out[0], heads, layout, **saved, **words)


def call_te(query, key, value, heads, layout, backward, words):
    ascend_flash_attention(query, key, value, words.get("atten_mask"), None, 1.0, 1.0, heads, layout)


def call_ring(query, key, value, heads, layout, backward, words):
    top, total = torch.zeros(*query.shape[:2], 8), torch.ones(*query.shape[:2], 8)
    side = query, top, total
    npu_ring_attention_update(*side, *side, actual_seq_qlen=words["actual_seq_qlen"], input_layout=layout)


LAYERS = {
    "mindspeed": call_mindspeed,
    "ascend_flash_attention": call_te,
    "npu_flash_attention": call_ascendspeed,
    "npu_ring_attention_update": call_ring,
}


def call_cell(arguments, words):
    query, key, value = arguments[:3]
    atten_mask = words.get("atten_mask")
    FlashAttention(query.shape[3], have_attention_mask_batch=False)(query, key, value, atten_mask)


def call(key, interface):
    arguments, words = OTHER_CASES.get((key, interface), CASES[key])()
    backward = key == "slopes-gradient"
    if interface == "npu_fusion_attention":
        call_fusion(arguments, words, backward)
    elif interface == "flash_attention_cell":
        call_cell(arguments, words)
    else:
        given = {name: tensor(word) for name, word in words.items()}
        LAYERS[interface](*map(tensor, arguments), backward, given)


# Rows about words that mindspeed's functions only hand on: npu_fusion_attention refuses, on which they stand.
INNER = {"pse-compressed", "tokens-mask", "inner-precise"}
# The cell itself refuses values unlike query in width.
CELL_ALWAYS = {"value-like-query"}


@pytest.mark.parametrize(("key", "interface"), PAIRS)
def test_every_row(key, interface):
    if interface == "flash_attention_cell" and key in CELL_ALWAYS:
        with pytest.raises(ValueError, match="value"):
            call(key, interface)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        call(key, interface)
        refusal = ValueError if interface == "flash_attention_cell" else RuntimeError
        _, argument, allowed = LIMITS[key]
        if interface == "npu_ring_attention_update":
            argument = "prev_attn_out"
        with fusion_attention.strict(), pytest.raises(refusal) as refused:
            call(key, interface)
    assert str(refused.value).startswith(f"{argument}: got "), refused.value
    if interface == "mindspeed" and key in INNER:
        interface = "npu_fusion_attention"
    assert f"allowed is {allowed} by the document of {interface} (strict mode; " in str(refused.value)


def test_every_row_has_a_call():
    assert CASES.keys() == LIMITS.keys()


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("interface", sorted({interface for _, interface in PAIRS}))
def test_documented_calls_pass(interface, backward):
    cases = [dense(), dense((1, 512, 128), layout="BSH", heads=2)]
    if interface in ("npu_fusion_attention", "mindspeed"):
        cases += [packed([3, 8]), dense(atten_mask=CAUSAL, sparse_mode=3), dense(pse=SLOPES, pse_type=2)]
        cases += [
            dense((1, 2, 8, 16), pse=np.zeros((1, 2, 1, 8), np.float16)),
            dense(atten_mask=mask(1, 1, 256, 256)),
        ]
        prefix = {"atten_mask": mask(3072, 2048), "sparse_mode": 6}
        cases += [dense((32, 1, 4, 16), prefix=[2] * 32, **prefix)]
    if interface == "npu_fusion_attention":
        cases += [rope(), dense(dtype=np.float32), dense((1, 1, 8, 768))]
    if interface == "npu_flash_attention":
        cases = cases[1:]
    if interface == "npu_ring_attention_update":
        cases = [packed([8], depth=64)]
    if interface == "flash_attention_cell":
        cases = [dense(), dense(atten_mask=mask(128, 128, dtype=np.float16)), dense((1, 1, 256, 128))]
    with fusion_attention.strict():
        for arguments, words in cases:
            if interface == "npu_fusion_attention":
                call_fusion(arguments, words, backward)
            elif interface == "flash_attention_cell":
                call_cell(arguments, words)
            else:
                given = {name: tensor(word) for name, word in words.items()}
                LAYERS[interface](*map(tensor, arguments), backward, given)


# --- The switch ---

WIDE = torch.ones(1, 1, 8, 1024)


def refused(call=lambda: npu_fusion_attention_v2(WIDE, WIDE, WIDE, 1, "BNSD")):
    try:
        call()
    except RuntimeError as error:
        assert "D of 1 to 768" in str(error), error
        return True
    return False


def test_block_function_and_nesting():
    assert not refused()
    with fusion_attention.strict():
        assert refused()
        with fusion_attention.strict(False):
            assert not refused()
        assert refused()
    assert not refused()
    fusion_attention.strict(True)
    assert refused()
    fusion_attention.strict(False)
    assert not refused()
    with pytest.raises(TypeError, match="on: got str"):
        fusion_attention.strict("yes")


def test_each_thread_and_task_has_its_own():
    seen = {}
    with fusion_attention.strict():
        thread = threading.Thread(target=lambda: seen.update(thread=refused()))
        thread.start()
        thread.join()
        seen["here"] = refused()

    async def task(on):
        fusion_attention.strict(on)
        await asyncio.sleep(0)
        return refused()

    async def both():
        return await asyncio.gather(task(True), task(False))

    assert seen == {"thread": False, "here": True}
    assert asyncio.run(both()) == [True, False]


@pytest.mark.parametrize(
    ("value", "expected"), [("1", "True True False"), ("0", "False True False"), ("yes", "False")]
)
def test_environment(value, expected):
    script = (
        "import fusion_attention as f; from fusion_attention._strict import is_on\n"
        "print(is_on(), end=' '); f.strict(); print(is_on(), end=' '); f.strict(False); print(is_on())"
    )
    environment = {**os.environ, "FUSION_ATTENTION_STRICT": value}
    ran = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert ran.stdout.startswith(expected)
    assert ("is ignored: allowed is 0 or 1" in ran.stderr) == (value == "yes")


def test_autograd_checks_the_gradient_too():
    query = torch.ones(1, 1, 8, 16, requires_grad=True)
    slopes = torch.ones(1, 1)
    with fusion_attention.strict():
        out = npu_fusion_attention_v2(query, query, query, 1, "BNSD", pse=slopes, pse_type=2)[0]
        with pytest.raises(
            RuntimeError, match=re.escape("pse: got [1, 1], allowed is slopes [N] in the gradient")
        ):
            out.sum().backward()


def test_compiled_graphs():
    def attend(query):
        return npu_fusion_attention_v2(query, query, query, 1, "BNSD")[0]

    early = torch.compile(attend, fullgraph=True, backend="aot_eager")
    assert not refused(lambda: early(WIDE))
    with fusion_attention.strict():
        assert refused(lambda: early(WIDE))  # traced before
        late = torch.compile(lambda query: attend(query) * 2, fullgraph=True, backend="aot_eager")
        assert refused(lambda: late(WIDE))
        late(torch.ones(1, 1, 8, 16))
        dynamic = torch.compile(
            lambda query: attend(query) * 3, dynamic=True, fullgraph=True, backend="aot_eager"
        )
        assert refused(lambda: dynamic(torch.ones(1, 1, 9, 1024)))


def test_tracing_alone_refuses():
    with fusion_attention.strict(), pytest.raises(Exception, match="D of 1 to 768"):
        torch.export.export(_Module(), (WIDE,))


class _Module(torch.nn.Module):
    def forward(self, query):
        return npu_fusion_attention_v2(query, query, query, 1, "BNSD")[0]


def test_gradient_functions():
    statistics = torch.ones(1, 1, 8, 8)
    saved = {"softmax_max": statistics, "softmax_sum": statistics, "attention_in": WIDE}
    with fusion_attention.strict():
        assert refused(lambda: npu_fusion_attention_grad_v2(WIDE, WIDE, WIDE, WIDE, 1, "BNSD", **saved))


def test_page_is_current():
    page = Path(__file__).parents[2] / "docs" / "strict.md"
    assert page.read_text() == _limits_page.page(), "run: python -m fusion_attention._limits_page"
