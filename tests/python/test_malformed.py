"""Malformed calls: each gets an exception of the documented type whose sentence names the argument.

A case is a legal small call with one thing broken. The legal call is checked too, so that a refusal can
only come from the break.
"""

from __future__ import annotations

import numpy as np
import pytest
from family_draw import DTYPES, dense_shape
from family_options import compressed_mask

LAYOUTS = ["BSH", "SBH", "BSND", "BNSD", "TND"]
REFUSALS = (RuntimeError, ValueError, TypeError)


def legal(layout: str, dtype: str) -> dict:
    """B = 2 (TND: lengths 3 and 2), N = 4, Nkv = 2, Sq = 3, Skv = 5, D = 8."""
    call = {"head_num": 4, "input_layout": layout, "scale": 0.5}
    if layout == "TND":
        shapes = [(5, 4, 8), (10, 2, 8), (10, 2, 8)]
        call |= {"actual_seq_qlen": [3, 5], "actual_seq_kvlen": [5, 10]}
    else:
        shapes = [dense_shape(layout, 2, n, s, 8) for n, s in ((4, 3), (2, 5), (2, 5))]
    for name, shape in zip(("query", "key", "value"), shapes):
        call[name] = np.ones(shape, DTYPES[dtype])
    return call


def other(dtype):
    return DTYPES["float16" if dtype == "float32" else "float32"]


def grow(x, axis, by=1):
    shape = list(x.shape)
    shape[axis] += by
    return np.ones(shape, x.dtype)


def mask(shape, dtype=bool):
    return np.zeros(shape, dtype)


def prefixed(call, prefix, shape=(3072, 2048)):
    return {"sparse_mode": 6, "prefix": prefix, "atten_mask": mask(shape)}


def cut(mode, post):
    return {"sparse_mode": mode, "next_tockens": post, "atten_mask": compressed_mask(2048)}


def pse(dtype, *shape):
    return {"pse": np.ones(shape, DTYPES[dtype])}


# argument named by the sentence, what is broken, layouts it applies to (None: all)
BREAKS = [
    ("query", "rank 2", None, lambda c, t: {"query": np.ones((3, 8), DTYPES[t])}),
    ("query", "rank 5", None, lambda c, t: {"query": np.ones((1, 1, 1, 3, 8), DTYPES[t])}),
    ("query", "integers", None, lambda c, t: {"query": c["query"].astype(np.int32)}),
    ("query", "float64", None, lambda c, t: {"query": c["query"].astype(np.float64)}),
    ("query", "None", None, lambda c, t: {"query": None}),
    ("query", "a list", None, lambda c, t: {"query": [1, 2, 3]}),
    ("key", "another dtype", None, lambda c, t: {"key": c["key"].astype(other(t))}),
    ("value", "another dtype", None, lambda c, t: {"value": c["value"].astype(other(t))}),
    ("key", "None", None, lambda c, t: {"key": None}),
    ("value", "another rank", None, lambda c, t: {"value": c["value"][None]}),
    ("key", "another D", ["BSND", "BNSD", "TND"], lambda c, t: {"key": grow(c["key"], -1)}),
    ("key", "another batch", ["BSH", "BSND", "BNSD"], lambda c, t: {"key": grow(c["key"], 0)}),
    ("value", "another length", ["BSH", "BSND"], lambda c, t: {"value": grow(c["value"], 1)}),
    ("value", "shorter", ["BSH", "BSND"], lambda c, t: {"value": c["value"][:, :-1]}),
    ("value", "another head count", ["TND"], lambda c, t: {"value": grow(c["value"], 1, 2)}),
    ("key", "heads that do not divide", ["BSND"], lambda c, t: {"key": grow(c["key"], 2)}),
    ("key", "width that is no multiple of D", ["BSH", "SBH"], lambda c, t: {"key": grow(c["key"], -1, 3)}),
    ("head_num", "zero", None, lambda c, t: {"head_num": 0}),
    ("head_num", "negative", None, lambda c, t: {"head_num": -4}),
    ("head_num", "not the query's", None, lambda c, t: {"head_num": 3}),
    ("head_num", "huge", None, lambda c, t: {"head_num": 2**62}),
    ("head_num", "a string", None, lambda c, t: {"head_num": "4"}),
    ("head_num", "None", None, lambda c, t: {"head_num": None}),
    ("input_layout", "unknown", None, lambda c, t: {"input_layout": "NBSD"}),
    ("input_layout", "empty", None, lambda c, t: {"input_layout": ""}),
    ("input_layout", "a number", None, lambda c, t: {"input_layout": 4}),
    ("input_layout", "of another rank", ["BSH", "TND"], lambda c, t: {"input_layout": "BSND"}),
    ("scale", "NaN", None, lambda c, t: {"scale": float("nan")}),
    ("scale", "infinite", None, lambda c, t: {"scale": float("inf")}),
    ("scale", "a string", None, lambda c, t: {"scale": "1"}),
    ("keep_prob", "zero", None, lambda c, t: {"keep_prob": 0.0}),
    ("keep_prob", "above 1", None, lambda c, t: {"keep_prob": 1.5}),
    ("keep_prob", "negative", None, lambda c, t: {"keep_prob": -0.1}),
    ("keep_prob", "NaN", None, lambda c, t: {"keep_prob": float("nan")}),
    ("sparse_mode", "negative", None, lambda c, t: {"sparse_mode": -1, "atten_mask": mask((3, 5))}),
    ("sparse_mode", "9", None, lambda c, t: {"sparse_mode": 9, "atten_mask": mask((3, 5))}),
    (
        "sparse_mode",
        "7 without TND",
        LAYOUTS[:4],
        lambda c, t: {"sparse_mode": 7, "atten_mask": compressed_mask(2048)},
    ),
    (
        "atten_mask",
        "compressed, wrong shape",
        None,
        lambda c, t: {"sparse_mode": 2, "atten_mask": mask((3, 5))},
    ),
    (
        "atten_mask",
        "compressed, 2047",
        None,
        lambda c, t: {"sparse_mode": 3, "atten_mask": mask((2047, 2048))},
    ),
    ("atten_mask", "wrong rows", None, lambda c, t: {"atten_mask": mask((4, 5))}),
    ("atten_mask", "wrong keys", None, lambda c, t: {"atten_mask": mask((3, 4))}),
    ("atten_mask", "rank 1", None, lambda c, t: {"atten_mask": mask((5,))}),
    ("atten_mask", "rank 3", None, lambda c, t: {"atten_mask": mask((2, 3, 5))}),
    ("atten_mask", "wrong batch", LAYOUTS[:4], lambda c, t: {"atten_mask": mask((3, 1, 3, 5))}),
    ("atten_mask", "wrong heads", LAYOUTS[:4], lambda c, t: {"atten_mask": mask((2, 3, 3, 5))}),
    ("atten_mask", "integers", None, lambda c, t: {"atten_mask": mask((3, 5), np.int64)}),
    ("atten_mask", "floats", None, lambda c, t: {"atten_mask": mask((3, 5), np.float64)}),
    ("padding_mask", "given", None, lambda c, t: {"padding_mask": mask((3, 5))}),
    ("softmax_layout", "unknown", None, lambda c, t: {"softmax_layout": "SBH"}),
    ("softmax_layout", "TND without TND", LAYOUTS[:4], lambda c, t: {"softmax_layout": "TND"}),
    ("pre_tockens", "a string", None, lambda c, t: {"pre_tockens": "all"}),
    ("next_tockens", "a fraction", None, lambda c, t: {"next_tockens": 0.5}),
    ("actual_seq_qlen", "missing", ["TND"], lambda c, t: {"actual_seq_qlen": None}),
    ("actual_seq_kvlen", "missing", ["TND"], lambda c, t: {"actual_seq_kvlen": None}),
    ("actual_seq_qlen", "empty", ["TND"], lambda c, t: {"actual_seq_qlen": [], "actual_seq_kvlen": []}),
    ("actual_seq", "of different length", ["TND"], lambda c, t: {"actual_seq_qlen": [3, 4, 5]}),
    ("actual_seq_qlen", "past T", ["TND"], lambda c, t: {"actual_seq_qlen": [3, 6]}),
    ("actual_seq_kvlen", "past T", ["TND"], lambda c, t: {"actual_seq_kvlen": [5, 2**40]}),
    ("actual_seq_kvlen", "huge", ["TND"], lambda c, t: {"actual_seq_kvlen": [5, 2**63 - 1]}),
    ("actual_seq_qlen", "beyond 64 bits", ["TND"], lambda c, t: {"actual_seq_qlen": [3, 2**70]}),
    ("actual_seq_qlen", "negative", ["TND"], lambda c, t: {"actual_seq_qlen": [-3, 5]}),
    ("actual_seq_qlen", "decreasing", ["TND"], lambda c, t: {"actual_seq_qlen": [4, 3]}),
    ("actual_seq_qlen", "fractions", ["TND"], lambda c, t: {"actual_seq_qlen": [2.5, 5]}),
    ("actual_seq_qlen", "strings", ["TND"], lambda c, t: {"actual_seq_qlen": ["3", "5"]}),
    (
        "D",
        "of zero",
        ["BSND", "BNSD", "TND"],
        lambda c, t: {n: c[n][..., :0] for n in ("query", "key", "value")},
    ),
    ("atten_mask", "compressed, mode 6", None, lambda c, t: prefixed(c, [2, 2], (2048, 2048))),
    ("prefix", "missing", None, lambda c, t: prefixed(c, None)),
    ("prefix", "empty", None, lambda c, t: prefixed(c, [])),
    ("prefix", "too few", None, lambda c, t: prefixed(c, [2])),
    ("prefix", "below Skv - Sq", None, lambda c, t: prefixed(c, [1, 2])),
    ("prefix", "above Skv", None, lambda c, t: prefixed(c, [6, 2])),
    ("prefix", "a number", None, lambda c, t: prefixed(c, 2)),
    (
        "atten_mask",
        "mode 5 with a prefix, one for all",
        LAYOUTS[:4],
        lambda c, t: {"sparse_mode": 5, "prefix": [2, 2], "atten_mask": mask((3, 5))},
    ),
    ("sparse_mode", "5 with TND", ["TND"], lambda c, t: {"sparse_mode": 5, "atten_mask": mask((3, 5))}),
    ("next_tockens", "mode 7", ["TND"], lambda c, t: cut(7, 1)),
    ("pre_tockens", "mode 7", ["TND"], lambda c, t: cut(7, 0) | {"pre_tockens": 4}),
    ("pre_tockens", "mode 8", ["TND"], lambda c, t: cut(8, 0) | {"pre_tockens": 4}),
    ("pse", "wrong rows", LAYOUTS[:4], lambda c, t: pse(t, 2, 4, 2, 5)),
    ("pse", "wrong keys", LAYOUTS[:4], lambda c, t: pse(t, 2, 4, 3, 4)),
    ("pse", "one key", LAYOUTS[:4], lambda c, t: pse(t, 2, 4, 3, 1)),
    ("pse", "wrong batch", LAYOUTS[:4], lambda c, t: pse(t, 3, 4, 3, 5)),
    ("pse", "wrong heads", LAYOUTS[:4], lambda c, t: pse(t, 2, 2, 3, 5)),
    ("pse", "rank 3", LAYOUTS[:4], lambda c, t: pse(t, 4, 3, 5)),
    ("pse", "compressed and too short", LAYOUTS[:4], lambda c, t: pse(t, 2, 4, 1024, 5)),
    ("pse", "wrong length", ["TND"], lambda c, t: pse(t, 99)),
    ("pse", "a dense form", ["TND"], lambda c, t: pse(t, 1, 4, 3, 5)),
    ("pse", "compressed, other rows than keys", ["TND"], lambda c, t: pse(t, 1, 4, 1024, 5)),
    ("pse", "another dtype", LAYOUTS[:4], lambda c, t: {"pse": np.ones((2, 4, 3, 5), other(t))}),
    ("pse", "integers", LAYOUTS[:4], lambda c, t: {"pse": np.ones((2, 4, 3, 5), np.int32)}),
    ("pse", "mode 7", ["TND"], lambda c, t: cut(7, 0) | pse(t, 4 * 25)),
    ("pse", "mode 8", ["TND"], lambda c, t: cut(8, 0) | pse(t, 4 * 25)),
    ("keep_prob", "a string", None, lambda c, t: {"keep_prob": "half"}),
    ("dropout_mask", "too short", None, lambda c, t: {"dropout_mask": np.zeros(12, np.uint8)}),
    ("dropout_mask", "bool", None, lambda c, t: {"dropout_mask": np.zeros(120, bool)}),
    ("seed", "a fraction", None, lambda c, t: {"seed": 0.5, "keep_prob": 0.5}),
    ("seed", "beyond 64 bits", None, lambda c, t: {"seed": 2**63, "keep_prob": 0.5}),
    ("offset", "None", None, lambda c, t: {"offset": None, "keep_prob": 0.5}),
    ("sink", "wrong heads", None, lambda c, t: {"sink": np.zeros(2, np.float32)}),
    ("sink", "rank 2", None, lambda c, t: {"sink": np.zeros((1, 4), np.float32)}),
    ("sink", "float64", None, lambda c, t: {"sink": np.zeros(4)}),
    ("inner_precise", "4", None, lambda c, t: {"inner_precise": 4}),
    ("no_such_argument", "given", None, lambda c, t: {"no_such_argument": 1}),
]

CASES = [
    pytest.param(layout, dtype, argument, change, id=f"{layout}-{dtype}-{argument}-{what}".replace(" ", "_"))
    for argument, what, layouts, change in BREAKS
    for layout in (layouts or LAYOUTS)
    for dtype in ("float32", "bfloat16")
]


def copies(call):
    return {k: v.copy() if isinstance(v, np.ndarray) and v.size < 1000 else v for k, v in call.items()}


@pytest.mark.parametrize(("layout", "dtype", "argument", "change"), CASES)
def test_refused(layout, dtype, argument, change):
    import fusion_attention.numpy as front

    call = legal(layout, dtype)
    call |= change(call, dtype)
    before = copies(call)
    with pytest.raises(REFUSALS) as caught:
        front.npu_fusion_attention(**call)
    said = str(caught.value)
    assert argument in said or argument == "D", f"the sentence does not name {argument}: {said}"
    assert "\n" not in said.strip(), f"more than one sentence: {said}"
    for name, value in before.items():
        if isinstance(value, np.ndarray):
            assert np.array_equal(value.view(np.uint8), call[name].view(np.uint8)), f"{name} was touched"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", list(DTYPES))
def test_legal(layout, dtype):
    import fusion_attention.numpy as front

    out = front.npu_fusion_attention(**legal(layout, dtype))[0]
    assert np.allclose(np.asarray(out, np.float32), 1)  # all values are 1, and so is their mean


# What version 2 adds.
SECOND_BREAKS = [
    ("pse_type", "negative", lambda c: {"pse_type": -1}),
    ("pse_type", "4", lambda c: {"pse_type": 4}),
    ("pse_type", "without pse", lambda c: {"pse_type": 2}),
    ("pse", "slopes in another dtype", lambda c: {"pse_type": 2, "pse": np.ones(4, np.float16)}),
    ("pse", "too few slopes", lambda c: {"pse_type": 3, "pse": np.ones(2, np.float32)}),
    ("pse", "slopes of another batch", lambda c: {"pse_type": 3, "pse": np.ones((3, 4), np.float32)}),
    ("pse", "slopes that are a bias", lambda c: {"pse_type": 2, "pse": np.ones((2, 4, 3, 5), np.float32)}),
    ("kv_start_idx", "missing", lambda c: slopes() | {"q_start_idx": [1]}),
    ("q_start_idx", "missing", lambda c: slopes() | {"kv_start_idx": [1]}),
    ("q_start_idx", "two", lambda c: slopes() | {"q_start_idx": [1, 2], "kv_start_idx": [1]}),
    ("kv_start_idx", "far", lambda c: slopes() | {"q_start_idx": [1], "kv_start_idx": [2**50]}),
    ("q_start_idx", "without slopes", lambda c: {"q_start_idx": [1], "kv_start_idx": [0]}),
    ("q_start_idx", "a string", lambda c: slopes() | {"q_start_idx": "1", "kv_start_idx": [1]}),
    ("key_rope", "missing", lambda c: {"query_rope": c["query"]}),
    ("query_rope", "missing", lambda c: {"key_rope": c["key"]}),
    ("query_rope", "rank", lambda c: {"query_rope": c["query"][None], "key_rope": c["key"]}),
    ("query_rope", "dtype", lambda c: {"query_rope": c["query"].astype(np.float16), "key_rope": c["key"]}),
    ("query_rope", "rows", lambda c: {"query_rope": grow(c["query"], 0), "key_rope": c["key"]}),
    ("query_rope", "D of zero", lambda c: {n + "_rope": c[n][..., :0] for n in ("query", "key")}),
    ("key_rope", "width", lambda c: {"query_rope": c["query"], "key_rope": grow(c["key"], -1, 2)}),
]


def slopes():
    return {"pse_type": 2, "pse": np.ones(4, np.float32)}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("argument", "what", "change"), SECOND_BREAKS)
def test_version_2_refused(layout, argument, what, change):
    import fusion_attention.numpy as front

    call = legal(layout, "float32")
    with pytest.raises(REFUSALS, match=f"^{argument}: got .*, allowed is "):
        front.npu_fusion_attention_v2(**(call | change(call)))


GRADIENT_BREAKS = [
    ("attention_in", lambda c: {"attention_in": None}),
    ("softmax_max", lambda c: {"softmax_max": None}),
    ("softmax_sum", lambda c: {"softmax_sum": None}),
    ("softmax_max", lambda c: {"softmax_max": c["softmax_max"][..., :4]}),
    ("softmax_sum", lambda c: {"softmax_sum": c["softmax_sum"].astype(np.float64)}),
    ("softmax_sum", lambda c: {"softmax_sum": c["softmax_sum"][..., :1, :]}),
    ("attention_in", lambda c: {"attention_in": c["attention_in"].astype(np.float16)}),
    ("attention_in", lambda c: {"attention_in": grow(c["attention_in"], 0)}),
    ("dy", lambda c: {"dy": None}),
    ("dy", lambda c: {"dy": grow(c["dy"], 0)}),
    ("dy", lambda c: {"dy": c["dy"].astype(np.float16)}),
    ("scale_value", lambda c: {"scale_value": float("nan")}),
    ("keep_prob", lambda c: {"keep_prob": 2.0}),
]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("argument", "change"), GRADIENT_BREAKS)
def test_gradient_refused(layout, argument, change):
    import fusion_attention.numpy as front

    call = legal(layout, "float32")
    out, top, total, *_ = front.npu_fusion_attention(**call)
    call["scale_value"] = call.pop("scale")
    call |= {"dy": np.ones_like(out), "attention_in": out, "softmax_max": top, "softmax_sum": total}
    front.npu_fusion_attention_grad(**call)  # legal as it stands
    with pytest.raises(REFUSALS, match=argument):
        front.npu_fusion_attention_grad(**(call | change(call)))
