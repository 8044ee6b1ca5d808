"""Makes functions, docstrings, torch schemas and result shapes from the table."""

from __future__ import annotations

import linecache
import textwrap
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from fusion_attention import _check
from fusion_attention._define import SCALARS, schema_argument, signature
from fusion_attention._table import REQUIRED
from fusion_attention.inference import exact
from fusion_attention.inference.table import MODES, NOTATION, OPERANDS, RESULTS, Function

_ERRORS = """\
Raises:
    RuntimeError: {values}
    TypeError: {types}{forms}

A sentence names the argument, what was given and what is allowed. Nothing has been computed then."""


def docstring(function: Function, tensor: str) -> str:
    """Shapes, dtypes, defaults, errors, the document and the mask pictures of one function."""
    lines = [f"{function.says}.", "", NOTATION, "", "Args:"]
    for name, argument, _ in function.parameters():
        kind = {"tensor": tensor, "ints": f"list of int or {tensor}", "dtype": "dtype"}.get(argument.kind)
        kind = kind or SCALARS.get(argument.kind, "reserved")
        kind += f" of {argument.dtypes}" if argument.dtypes else ""
        default = "" if argument.default is REQUIRED else f", default {argument.default!r}"
        text = f"{name} ({kind}{default}): {argument.says}. [{argument.source}]"
        lines += textwrap.wrap(
            text, 100, initial_indent="    ", subsequent_indent="        ", break_on_hyphens=False
        )
    lines += ["", "Returns:"]
    for name in function.results:
        lines += textwrap.wrap(
            f"{name}: {RESULTS[name]}.", 100, initial_indent="    ", subsequent_indent="        "
        )
    errors = _ERRORS.format(
        values="a value or shape that is not allowed."
        if function.has_error_table
        else "anything not allowed.",
        types="a wrong dtype or Python type." if function.has_error_table else "a wrong Python type.",
        forms="\n    ValueError: another layout, a rank that is not the layout's, lengths out of range."
        if function.has_error_table
        else "",
    )
    return "\n".join([*lines, "", errors, "", MODES])


def _body(function: Function) -> list[str]:
    """Type checks that cost nothing when they pass, then the call with what was given, by canonical name."""
    checks, words = [], []
    for name, argument, _ in function.parameters():
        word = f"words[{argument.name!r}] = {name}"
        if argument.kind == "tensor":
            absent = "" if argument.default is REQUIRED else f"{name} is not None and "
            if name in function.lists:
                checks.append(f"    if type({name}) in (tuple, list): {name} = only({name!r}, {name})")
            checks.append(f"    if {absent}not isinstance({name}, Tensor): refuse_tensor({name!r}, {name})")
            if absent:
                words.append(f"    if {name} is not None: {word}")
        elif argument.kind == "unused":
            given = f"{name} is not None" if argument.default is None else f"{name} != {argument.default!r}"
            checks.append(f"    if {given}: refuse_given({name!r}, {name}, {argument.default!r})")
        elif argument.kind == "dtype":
            words.append(f"    if {name} is not None: words[{argument.name!r}] = as_dtype({name!r}, {name})")
        elif argument.kind == "ints":
            words.append(f"    if {name} is not None: words[{argument.name!r}] = as_ints({name!r}, {name})")
        else:
            kind = SCALARS[argument.kind]
            past = f" or {name}.bit_length() > 63" if kind == "int" else ""
            checks.append(f"    if type({name}) is not {kind}{past}: {name} = as_{kind}({name!r}, {name})")
            words.append(f"    {word}")
    return [*checks, "    words = {}", *words, "    return implementation(query, key, value, words)"]


def define(
    function: Function,
    implementation: Callable[..., Any],
    *,
    tensor: type,
    tensor_name: str,
    as_ints: Callable[[str, Any], Any],
    module: str,
) -> Any:
    """The public function: exact names, order and defaults of the documents.

    `implementation` gets (query, key, value, words): every number, and every tensor and list that is given.
    """
    source = "\n".join([f"def {function.name}({signature(function)}):", *_body(function), ""])
    checks: ModuleType = exact if function.has_error_table else _check

    def refuse_tensor(name: str, given: Any) -> None:
        if given is None and not function.has_error_table:
            raise RuntimeError(f"{name}: got None, allowed is a {tensor_name}")
        _check.refuse_type(name, given, f"a {tensor_name}")

    def refuse_given(name: str, given: Any, allowed: Any) -> None:
        raise RuntimeError(f"{name}: got {type(given).__name__}, allowed is {allowed}: it is reserved")

    def only(name: str, given: Sequence[Any]) -> Any:
        if len(given) != 1:
            raise RuntimeError(f"{name}: got {len(given)} tensors, allowed is 1, in a tuple or by itself")
        return given[0]

    namespace: dict[str, Any] = {
        "only": only,
        "refuse_given": refuse_given,
        "implementation": implementation,
        "Tensor": tensor,
        "as_ints": as_ints,
        "refuse_tensor": refuse_tensor,
        "as_dtype": _check.as_dtype,
        **{f"as_{kind}": getattr(checks, f"as_{kind}") for kind in ("int", "float", "str", "bool")},
    }
    filename = f"<fusion_attention: {module}.{function.name}>"
    exec(compile(source, filename, "exec"), namespace)  # as namedtuple and dataclass do
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    made = namespace[function.name]
    made.__module__ = module
    made.__doc__ = docstring(function, tensor_name)
    return made


def torch_schema(function: Function) -> str:
    """The arguments and the results as a torch operator, by canonical names."""
    rows = [argument for _, argument, _ in function.parameters() if argument.kind != "unused"]
    operands = ", ".join(map(schema_argument, rows[:OPERANDS]))
    rest = ", ".join(map(schema_argument, rows[OPERANDS:]))
    return f"({operands}, *, {rest}) -> ({', '.join(f'Tensor {name}' for name in function.results)})"


_CALLER_TYPES = {"symint": "int", "dtype": "int", "ints": "SymInt[]?"}


def caller_schema(function: Function) -> str:
    """The arguments and results as torch_npu's own operator has them."""
    parts, keyword_only = [], False
    for name, argument, only in function.parameters():
        if only and not keyword_only:
            parts.append("*")
            keyword_only = True
        kind = _CALLER_TYPES.get(argument.kind, argument.kind)
        if argument.kind in ("tensor", "unused"):
            kind = "Tensor"
        if argument.kind == "unused" and name.endswith(("_dtype", "_mode")):
            kind = "int"
        optional = "?" if argument.default is None and not kind.endswith("?") else ""
        default = "" if argument.default is REQUIRED else f"={argument.default!r}".replace("'", '"')
        parts.append(f"{kind}{optional} {name}{default}")
    results = ", ".join("Tensor" for _ in function.results)
    return f"({', '.join(parts)}) -> ({results})"


def result_shapes(
    query: Sequence[Any], value: Sequence[Any], words: dict[str, Any], packed_by: int = 1
) -> tuple[list[Any], list[Any]]:
    """Of attention_out and softmax_lse, from the shapes of a legal call, in arithmetic that also works on
    symbolic sizes. packed_by: the numbers in an element of value.
    """
    heads = words["num_heads"]
    kv_heads = words["num_key_value_heads"] or heads
    layout, _, output = words["input_layout"].upper().partition("_")
    merged = len(value) == 3 if words.get("block_table") is not None else layout == "BSH"
    depth = value[-1] * packed_by // (kv_heads if merged else 1)
    if layout in ("TND", "NTD"):
        tokens = query[layout.index("T")]
        sizes, lse = {"T": tokens, "N": heads, "D": depth}, [tokens, heads, 1]
    else:
        batches, rows = query[0], query[layout.index("S")]
        sizes = {"B": batches, "S": rows, "N": heads, "D": depth, "H": heads * depth}
        lse = [batches, heads, rows, 1]
    return [sizes[axis] for axis in output or layout], lse
