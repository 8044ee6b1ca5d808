"""`python -m fusion_attention._stubs` writes `_signatures.py` and the page of the docs from the table.

A test compares both with what stands in the repository.
"""

from __future__ import annotations

from pathlib import Path

from fusion_attention import _mask_pictures
from fusion_attention._define import signature
from fusion_attention._table import (
    ARGUMENTS,
    FUNCTIONS,
    NOTATION,
    OTHERS,
    REQUIRED,
    RESULTS,
    Argument,
    Function,
)

FILE = Path(__file__).with_name("_signatures.py")
PAGE = Path(__file__).parents[2] / "docs" / "npu_fusion_attention.md"
HEADER = '''\
"""The types of the public functions, one protocol each; Array is torch.Tensor or numpy.ndarray.

Written by `python -m fusion_attention._stubs` from the table; do not edit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

Array = TypeVar("Array")
'''
_KINDS = {"tensor": "Array", "symint": "int", "dtype": "object", "ints": "Sequence[int] | Array"}


def class_name(function: Function) -> str:
    return f"V{function.version}{'Grad' if function.backward else ''}"


def annotated(argument: Argument, name: str) -> str:
    kind = _KINDS.get(argument.kind, argument.kind)
    return f"{name}: {kind}{' | None' if argument.optional else ''}"


def _results(function: Function) -> str:
    absent = {"dpse", "dq_rope", "dk_rope", "dsink"}
    numbers = {"seed", "offset", "numels"} if function.version < 3 else set()
    kinds = ("Array | None" if r in absent else "int" if r in numbers else "Array" for r in function.results)
    return f"tuple[{', '.join(kinds)}]"


def text() -> str:
    parts = [HEADER]
    for function in FUNCTIONS:
        parameters = signature(function, annotated).replace(", ", ",\n        ")
        parts.append(
            f"\n\nclass {class_name(function)}(Protocol[Array]):\n"
            f'    """{function.name}"""\n\n'
            f"    def __call__(\n        self,\n        {parameters},\n    ) -> {_results(function)}: ...\n"
        )
    return "".join(parts).replace("=''", '=""').replace("= ''", '= ""')


PAGE_HEADER = f"""\
# npu_fusion_attention

Versions 1, 2 and 3 of the Ascend operator and their gradients, on torch tensors (`fusion_attention.torch`)
and on NumPy arrays (`fusion_attention.numpy`). *Written by `python -m fusion_attention._stubs`; do not edit.*

{NOTATION}

| function | arguments in order | results |
|---|---|---|
"""


SOURCES = """
## Sources

`training-ops` is the specification that this library was written from. Its sections restate these public
sources and decide where they disagree. Paths lie in Ascend/op-plugin (A), hicann/ops-transformer (B),
hicann/ops-math (C) and Ascend/pytorch (D).

| section | what | drawn from |
|---|---|---|
| 1 | signatures, results | A `op_plugin/config/op_plugin_functions.yaml`, `docs/zh/custom_APIs/torch_npu/` |
| 2 | layouts | A `op_plugin/ops/opapi/FlashAttention*KernelNpuOpApi.cpp` |
| 3 | order of arithmetic, pse | B `attention/flash_attention_score/`, `common/include/kernel/pse.h` |
| 4 | masks, sparse modes | B `docs/context/`, `attention/flash_attention_score/` |
| 5 | packed sequences (TND) | A and B, as above |
| 6 | dropout | C `random/`; D `torch_npu/csrc/aten/NPUGeneratorImpl.cpp` |
| 7 | backward | B `attention/flash_attention_score_grad/` |
"""


def row(*cells: str) -> str:
    bar = r"\|"  # Markdown's
    return f"| {' | '.join(cell.replace('|', bar) for cell in cells)} |\n"


def page() -> str:
    """The page of the docs: functions, arguments, results, masks."""
    parts = [PAGE_HEADER]
    parts += [row(f"`{f.name}`", f"`{signature(f)}`", ", ".join(f.results)) for f in FUNCTIONS]
    parts.append(
        "\nVersions 1 and 3 and their gradients write `pre_tockens`, `next_tockens`; all gradients write\n"
        "`scale_value`.\n\n| argument | type | default | meaning | source |\n|---|---|---|---|---|\n"
    )
    for argument in (*ARGUMENTS, *OTHERS):
        kind = {"symint": "int", "ints": "list of int"}.get(argument.kind, argument.kind)
        kind += f" of {argument.dtypes}" if argument.dtypes else ""
        default = "" if argument.default is REQUIRED else f"`{argument.default!r}`"
        parts.append(row(f"`{argument.name}`", kind, default, argument.says, argument.source))
    parts.append("\n| result | meaning |\n|---|---|\n")
    parts += [row(f"`{name}`", says) for name, says in RESULTS.items()]
    parts.append(
        "\nErrors: `TypeError` for an argument of the wrong Python type, `RuntimeError` for anything else;\n"
        "one sentence: the argument, what was given, what is allowed. Nothing has been computed then.\n"
        "\n## Masks\n\n"
        "Rows downwards, keys to the right: `█` is seen, `·` is hidden. Drawn by the library itself, as\n"
        "`fusion_attention.draw_mask` draws any call; `docs/masks/` has each picture alone, and\n"
        "`python -m fusion_attention._mask_pictures --png FOLDER` makes PNG of them.\n"
        "A row that sees nothing gives output 0, gradients 0 and the statistics (−FLT_MAX, 1).\n"
    )
    for example in _mask_pictures.EXAMPLES:
        says, picture = _mask_pictures.draw(example).split("\n\n", 1)
        parts.append(f"\n{says}.\n\n```\n{picture}```\n")
    parts.append(SOURCES)
    return "".join(parts)


if __name__ == "__main__":
    FILE.write_text(text())
    PAGE.write_text(page())
