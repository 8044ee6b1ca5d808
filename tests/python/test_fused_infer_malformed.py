"""Malformed calls of the decoding operators: each gets an exception whose sentence names the argument.

Every break is made in every legal call and function that it applies to; hostile tables and lengths are among
them. The legal calls themselves are checked, so that a refusal can only come from the break.
"""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from argument_names import PARAMETERS, check_names, respelled
from fused_infer_breaks import BASES, BREAKS, OF
from test_family_calls import to_torch
from test_fused_infer import NAMES


def function(front: str, which: str):
    module = pytest.importorskip(f"fusion_attention.inference.{front}")
    return getattr(module, NAMES[which])


def in_words_of(call: dict, which: str) -> dict:
    return {respelled(name, NAMES[which]): word for name, word in call.items()}


def cases():
    for argument, what, bases, change in BREAKS:
        for which in OF:
            for base in bases:
                if base not in OF[which]:
                    continue
                call = BASES[base]()
                changed = change(call)
                broken = {
                    name: word
                    for name, word in (call | changed).items()
                    if word is not None or name in changed
                }
                words = in_words_of(broken, which)
                if words.keys() <= PARAMETERS[NAMES[which]]:
                    named = respelled(argument, NAMES[which])
                    yield pytest.param(which, words, named, id=f"{which}-{base}-{argument}-{what}")


CASES = list(cases())


def test_there_are_enough():
    assert len(CASES) >= 200


@pytest.mark.parametrize(("which", "base"), [(which, base) for which in OF for base in OF[which]])
def test_legal(which, base):
    function("numpy", which)(**in_words_of(BASES[base](), which))


@pytest.mark.parametrize(("which", "words", "named"), CASES)
def test_refused(which, words, named):
    copies = {name: word.copy() for name, word in words.items() if isinstance(word, np.ndarray)}
    with pytest.raises((RuntimeError, ValueError, TypeError)) as refusal:
        function("numpy", which)(**words)
    sentence = str(refusal.value)
    assert sentence.startswith(f"{named}: got "), sentence
    assert "\n" not in sentence
    check_names(sentence, NAMES[which])
    for name, word in copies.items():
        np.testing.assert_array_equal(word, words[name])


@pytest.mark.parametrize(("which", "words", "named"), CASES[::5])
def test_refused_by_torch(which, words, named):
    call = function("torch", which)
    tensors = {name: to_torch(word) if isinstance(word, np.ndarray) else word for name, word in words.items()}
    with pytest.raises((RuntimeError, ValueError, TypeError)) as refusal:
        call(**tensors)
    assert f"{named}: " in str(refusal.value)


@pytest.mark.parametrize("which", OF)
def test_signature(which):
    numpy_form, torch_form = (inspect.signature(function(front, which)) for front in ("numpy", "torch"))
    assert str(numpy_form) == str(torch_form)
