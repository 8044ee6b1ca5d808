"""How the inference interfaces spell their arguments, and that a refusal speaks in the caller's spelling."""

from __future__ import annotations

import re

from fusion_attention.inference import decode

FUNCTIONS = {function.name: function for function in decode.FUNCTIONS}
PARAMETERS = {
    name: {spelled for spelled, _, _ in function.parameters()} for name, function in FUNCTIONS.items()
}
ALL = set().union(*PARAMETERS.values())


def respelled(name: str, to: str) -> str:
    """An argument of version 1 of fused infer as the function `to` spells it."""
    canonical = decode.FUSED.spellings.get(name, name)
    return {known: spelled for spelled, known in FUNCTIONS[to].spellings.items()}.get(canonical, canonical)


def check_names(sentence: str, name: str) -> None:
    """It begins with an argument of the function and names none that only other functions have."""
    first = re.match(r"(\w+): got ", sentence)
    assert first and first[1] in PARAMETERS[name], sentence
    words = {word for word in re.findall(r"\w+", sentence) if "_" in word}
    assert not words & (ALL - PARAMETERS[name]), sentence
