"""`python -m fusion_attention.inference.stubs` writes `signatures.py` and parts of the docs from the table.

In a page of docs/ the part between `<!-- WHAT NAME -->` and `<!-- end -->` is written: the arguments, results
or spellings of a function, those of the functions that decode, notation, modes. A test compares all of it
with what stands in the repository.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from fusion_attention._define import signature
from fusion_attention._stubs import HEADER, annotated, row
from fusion_attention._table import REQUIRED, Argument
from fusion_attention.inference.decode import FUNCTIONS, FUSED, FUSED_V2, INCRE, NPU_INCRE
from fusion_attention.inference.table import MODES, NOTATION, RESULTS, Function

FILE = Path(__file__).with_name("signatures.py")
DOCS = Path(__file__).parents[3] / "docs"
_BY_NAME = {function.name: function for function in FUNCTIONS}
_GROUPS = {"decode": (INCRE, NPU_INCRE, FUSED, FUSED_V2)}  # on one page, in one table of arguments
_HEAD = "| argument | type | default | meaning | source |\n|---|---|---|---|---|\n"


def class_name(function: Function) -> str:
    return "".join(part.capitalize() for part in function.name.split("_"))


def _annotations(function: Function) -> Callable[[Argument, str], str]:
    def one(argument: Argument, name: str) -> str:
        if argument.kind == "unused":
            return f"{name}: None"
        return f"{name}: Array | Sequence[Array]" if name in function.lists else annotated(argument, name)

    return one


def text() -> str:
    """The types of the functions, one protocol each."""
    parts = [HEADER.replace("fusion_attention._stubs", "fusion_attention.inference.stubs")]
    for function in FUNCTIONS:
        parameters = signature(function, _annotations(function)).replace(", ", ",\n        ")
        arrays = ", ".join(["Array"] * len(function.results))
        results = "Array" if len(function.results) == 1 else f"tuple[{arrays}]"
        parts.append(
            f"\n\nclass {class_name(function)}(Protocol[Array]):\n"
            f'    """{function.name}"""\n\n'
            f"    def __call__(\n        self,\n        {parameters},\n    ) -> {results}: ...\n"
        )
    return "".join(parts).replace("'", '"')


def argument_row(spelled: str, argument: Argument) -> str:
    kinds = {"symint": "int", "ints": "list of int or tensor", "unused": "reserved"}
    kind = kinds.get(argument.kind, argument.kind) + (f" of {argument.dtypes}" if argument.dtypes else "")
    default = "" if argument.default is REQUIRED else f"`{argument.default!r}`"
    return row(f"`{spelled}`", kind, default, argument.says, argument.source)


def arguments(name: str) -> str:
    """The signature of a function and the table of its arguments; or that of a group."""
    if name in _GROUPS:
        return _HEAD + "".join(argument_row(*item) for item in _arguments_of(_GROUPS[name]).items())
    function = _BY_NAME[name]
    rows = [argument_row(spelled, argument) for spelled, argument, _ in function.parameters()]
    return "".join([f"`{name}({signature(function)})`\n\n", _HEAD, *rows])


def _arguments_of(group: tuple[Function, ...]) -> dict[str, Argument]:
    """Version 1's, then what others have that is no other spelling of one of those."""
    found = {name: argument for name, argument, _ in FUSED.parameters()}
    for function in group:
        for name, argument, _ in function.parameters():
            if name not in function.spellings:
                found.setdefault(name, argument)
    return found


def functions(name: str) -> str:
    head = "| function | arguments in order | results |\n|---|---|---|\n"
    return head + "".join(
        row(f"`{f.name}`", f"`{signature(f)}`", ", ".join(f.results)) for f in _GROUPS[name]
    )


def spellings(name: str) -> str:
    pairs = _BY_NAME[name].spellings.items()
    return ", ".join(f"`{spelled}` is `{canonical}`" for spelled, canonical in pairs) + ".\n"


def results(name: str) -> str:
    rows = [row(f"`{result}`", RESULTS[result]) for result in _BY_NAME[name].results]
    return "| result | meaning |\n|---|---|\n" + "".join(rows)


_PARTS: dict[str, Callable[[str], str]] = {
    "arguments": arguments,
    "functions": functions,
    "spellings": spellings,
    "results": results,
    "notation": lambda _: f"{NOTATION}\n",
    "modes": lambda _: f"```\n{MODES}\n```\n",
}
_MARKED = re.compile(rf"(<!-- ({'|'.join(_PARTS)}) (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def page(given: str) -> str:
    """A page with its marked parts written anew."""
    return _MARKED.sub(lambda found: found[1] + _PARTS[found[2]](found[3]) + found[4], given)


def pages(docs: Path) -> list[Path]:
    """The pages with marked parts."""
    return [path for path in sorted(docs.glob("*.md")) if _MARKED.search(path.read_text())]


if __name__ == "__main__":
    FILE.write_text(text())
    for path in pages(DOCS):
        path.write_text(page(path.read_text()))
