"""The malformed calls of test_malformed.py through every training interface on torch.

An interface is tried with the breaks of the words it has, in its own spelling.
"""

from __future__ import annotations

import importlib
import inspect
from functools import lru_cache

import numpy as np
import pytest
from test_malformed import BREAKS, CASES, GRADIENT_BREAKS, LAYOUTS, REFUSALS, SECOND_BREAKS, legal

torch = pytest.importorskip("torch")
import fusion_attention  # noqa: E402
import fusion_attention.torch as front  # noqa: E402

DENSE = LAYOUTS[:4]
# Function, its module, its layouts, what it spells otherwise, breaks that are legal there.
INTERFACES = {
    "v1": (front.npu_fusion_attention, LAYOUTS, {}, ()),
    "v2": (
        front.npu_fusion_attention_v2,
        LAYOUTS,
        {"pre_tockens": "pre_tokens", "next_tockens": "next_tokens"},
        (),
    ),
    "v3": (front.npu_fusion_attention_v3, LAYOUTS, {}, ()),
    "mindspeed": (
        "mindspeed.ops.fusion_attention_v2:npu_fusion_attention",
        LAYOUTS,
        {"pre_tockens": "pre_tokens", "next_tockens": "next_tokens"},
        (),
    ),
    "ascendspeed": (
        "ascendspeed.ops:npu_flash_attention",
        DENSE,
        {"dropout_mask": "drop_mask"},
        (("atten_mask", "floats"),),  # masks of the document are float16 and float32
    ),
}


@pytest.fixture(autouse=True)
def layers():
    fusion_attention.enable("mindspeed", "ascendspeed")
    yield
    fusion_attention.disable()


def function(interface):
    found = INTERFACES[interface][0]
    if isinstance(found, str):
        module, name = found.split(":")
        found = getattr(importlib.import_module(module), name)
    return found


def tensors(call):
    return {k: torch.from_numpy(v.copy()) if isinstance(v, np.ndarray) else v for k, v in call.items()}


def spelled(interface, call):
    words = INTERFACES[interface][2]
    return {words.get(name, name): value for name, value in call.items()}


def has(interface, words):
    """Whether the interface has all of these words; what nobody has is refused by everybody."""
    known = parameters(interface)
    return all(word in known or word == "no_such_argument" for word in spelled(interface, words))


@lru_cache(None)
def parameters(interface):
    fusion_attention.enable("mindspeed", "ascendspeed")
    known = {*inspect.signature(function(interface)).parameters}
    fusion_attention.disable()
    return known


def breaks(interface):
    _, layouts, _, legal_there = INTERFACES[interface]
    for argument, what, only, change in BREAKS:
        for layout in only or LAYOUTS:
            words = change(legal(layout, "float32"), "float32")
            if layout in layouts and (argument, what) not in legal_there and has(interface, words):
                yield pytest.param(
                    interface, layout, argument, change, id=f"{interface}-{layout}-{argument}-{what}"
                )


FORWARD = [case for interface in INTERFACES for case in breaks(interface)]


@pytest.mark.parametrize(("interface", "layout", "argument", "change"), FORWARD)
def test_refused(interface, layout, argument, change):
    call = legal(layout, "float32")
    function(interface)(**spelled(interface, tensors(call)))  # legal as it stands
    with pytest.raises(REFUSALS) as caught:
        function(interface)(**spelled(interface, tensors(call | change(call, "float32"))))
    said = str(caught.value)
    named = spelled(interface, {argument: None}).popitem()[0]
    assert named in said or argument == "D", f"the sentence does not name {named}: {said}"
    assert "\n" not in said.strip(), f"more than one sentence: {said}"


GRADIENTS = ("npu_fusion_attention_grad", "npu_fusion_attention_grad_v2", "npu_fusion_attention_grad_v3")
BACKWARD = [(name, layout, *case) for name in GRADIENTS for layout in LAYOUTS for case in GRADIENT_BREAKS]


@pytest.mark.parametrize(("name", "layout", "argument", "change"), BACKWARD)
def test_gradient_refused(name, layout, argument, change):
    call = legal(layout, "float32")
    out, top, total = (x.numpy() for x in front.npu_fusion_attention(**tensors(call))[:3])
    call["scale_value"] = call.pop("scale")
    call |= {"dy": np.ones_like(out), "attention_in": out, "softmax_max": top, "softmax_sum": total}
    gradient = getattr(front, name)
    gradient(**tensors(call))  # legal as it stands
    with pytest.raises(REFUSALS, match=argument):
        gradient(**tensors(call | change(call)))


def test_zz_report(capsys):
    arrays = len(CASES) + len(LAYOUTS) * (len(SECOND_BREAKS) + len(GRADIENT_BREAKS))
    with capsys.disabled():
        print(f"\nmalformed calls: {arrays} on arrays, {len(FORWARD) + len(BACKWARD)} on torch")
