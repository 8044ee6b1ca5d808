"""Makes functions, docstrings, torch schemas and stubs from the table."""

from __future__ import annotations

import linecache
import textwrap
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from fusion_attention import _check
from fusion_attention._table import ARGUMENTS, COMMON, MODES, NOTATION, REQUIRED, RESULTS, Argument, Function

# What an implementation gets by itself, after (query, key, value, common, rest), where the function has it.
_OWN = ("dy", "softmax_max", "softmax_sum", "attention_in", "seed", "offset")
SCALARS = {"int": "int", "symint": "int", "float": "float", "str": "str", "bool": "bool"}


class Parameters(Protocol):
    """What has a parameter list: a function of any family's table."""

    def parameters(self) -> Iterator[tuple[str, Argument, bool]]: ...


def signature(
    function: Parameters, annotate: Callable[[Argument, str], str] = lambda argument, name: name
) -> str:
    """The parameter list, without parentheses."""
    parts, keyword_only = [], False
    for name, argument, only in function.parameters():
        if only and not keyword_only:
            parts.append("*")
            keyword_only = True
        spaced = " = " if ":" in annotate(argument, name) else "="
        default = "" if argument.default is REQUIRED else f"{spaced}{argument.default!r}"
        parts.append(annotate(argument, name) + default)
    return ", ".join(parts)


def docstring(function: Function, tensor: str) -> str:
    """Shapes, dtypes, defaults, errors, the document and the mask pictures of one function."""
    what = (
        "Gradients of npu_fusion_attention" if function.backward else "Fused attention, softmax(scale·Q·Kᵀ)·V"
    )
    lines = [f"{what}: version {function.version} of the Ascend interface.", "", NOTATION]
    lines += [
        "In brackets: the section of the specification, whose sources docs/npu_fusion_attention.md lists."
    ]
    lines += ["", "Args:"]
    for name, argument, _ in function.parameters():
        kind = {"tensor": tensor, "ints": "list of int"}.get(argument.kind, SCALARS.get(argument.kind, ""))
        kind += f" of {argument.dtypes}" if argument.dtypes else ""
        default = "" if argument.default is REQUIRED else f", default {argument.default!r}"
        text = f"{name} ({kind}{default}): {argument.says}. [{argument.source}]"
        lines += textwrap.wrap(
            text, 100, initial_indent="    ", subsequent_indent="        ", break_on_hyphens=False
        )
    lines += ["", "Returns:", f"    A tuple of {len(function.results)}:"]
    lines += [f"    {name}: {RESULTS[name]}." for name in function.results]
    lines += [
        "",
        "Raises:",
        "    TypeError: an argument of the wrong Python type.",
        "    RuntimeError: anything else that is not allowed; the sentence names the argument, what was",
        "        given and what is allowed. Nothing has been computed.",
        "",
        MODES,
    ]
    return "\n".join(lines)


def _body(function: Function) -> list[str]:
    """Type checks that cost nothing when they pass, then the call in the table's order."""
    lines, spelled = [], {}
    for name, argument, _ in function.parameters():
        spelled[argument.name] = name
        if argument.kind == "tensor":
            absent = f"{name} is not None and " if argument.optional else ""
            lines.append(f"    if {absent}not isinstance({name}, Tensor): refuse_tensor({name!r}, {name})")
        elif argument.kind == "ints":
            lines.append(f"    if {name} is not None: {name} = as_lengths({name!r}, {name})")
        else:
            kind = SCALARS[argument.kind]
            lines.append(f"    if type({name}) is not {kind}: {name} = as_{kind}({name!r}, {name})")
    common = [spelled[argument.name] for argument in ARGUMENTS[3:COMMON]]
    rest = [(spelled.get(argument.name, repr(argument.default)), argument) for argument in ARGUMENTS[COMMON:]]
    unsaid = " and ".join(
        f"{name} is None" if argument.optional else f"{name} == {argument.default!r}"
        for name, argument in rest
        if argument.name in spelled
    )
    lines.append(f"    rest = () if {unsaid} else ({', '.join(name for name, _ in rest)})")
    own = [name for name in _OWN if name in spelled]
    lines.append(
        f"    return implementation(query, key, value, ({', '.join(common)}), rest"
        + "".join(f", {name}" for name in own)
        + ")"
    )
    return lines


def define(
    function: Function,
    implementation: Callable[..., Any],
    *,
    tensor: type,
    tensor_name: str,
    as_lengths: Callable[[str, Any], Any],
    module: str,
) -> Callable[..., Any]:
    """The public function: exact names, order and defaults of the documents.

    `implementation` gets (query, key, value, common, rest, own arguments…): see `_OWN` and `_table.COMMON`.
    """
    source = "\n".join([f"def {function.name}({signature(function)}):", *_body(function), ""])

    def refuse_tensor(name: str, given: Any) -> None:
        if given is None:
            raise RuntimeError(f"{name}: got None, allowed is a {tensor_name}")
        _check.refuse_type(name, given, f"a {tensor_name}")

    namespace: dict[str, Any] = {
        "implementation": implementation,
        "Tensor": tensor,
        "as_lengths": as_lengths,
        "refuse_tensor": refuse_tensor,
        **{f"as_{kind}": getattr(_check, f"as_{kind}") for kind in ("int", "float", "str", "bool")},
    }
    filename = f"<fusion_attention: {module}.{function.name}>"
    exec(compile(source, filename, "exec"), namespace)  # as namedtuple and dataclass do
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    made: Callable[..., Any] = namespace[function.name]
    made.__module__ = module
    made.__doc__ = docstring(function, tensor_name)
    return made


_SCHEMA_TYPES = {
    "dtype": "int?",
    "int": "int",
    "symint": "SymInt",
    "float": "float",
    "str": "str",
    "bool": "bool",
}


def schema_argument(argument: Argument) -> str:
    """One argument of a torch operator. Lengths are tensors there: no graph may depend on their values."""
    default = "" if argument.default is REQUIRED else f"={argument.default!r}".replace("'", '"')
    if argument.kind == "tensor" or argument.name.startswith("actual_seq"):
        kind = "Tensor?" if argument.optional else "Tensor"
    elif argument.kind == "ints":
        kind = "SymInt[]?"
    else:
        kind = _SCHEMA_TYPES[argument.kind]
    return f"{kind} {argument.name}{default}"


def torch_schemas() -> tuple[str, str]:
    """The arguments and results of the two passes as torch operators.

    seed and offset are tensors of one element; tockens says how version 1 spells the tokens in a refusal.
    gradients: dq, dk, dv, then those of pse (if pse_gradient), query_rope, key_rope and sink that are given.
    """
    operands = ", ".join(map(schema_argument, ARGUMENTS[:3]))
    rest = ", ".join(map(schema_argument, ARGUMENTS[3:]))
    rest = f"bool tockens, {rest}, Tensor? seed=None, Tensor? offset=None"
    saved = "Tensor dy, Tensor? softmax_max, Tensor? softmax_sum, Tensor? attention_in"
    return (
        f"({operands}, {rest}) -> (Tensor attention_out, Tensor softmax_max, Tensor softmax_sum)",
        f"({operands}, {saved}, {rest}, *, bool pse_gradient=False) -> Tensor[] gradients",
    )
