"""`python -m fusion_attention.inference.page` writes docs/fused_infer_attention.md from the table.

A test compares the page with what stands in the repository.
"""

from __future__ import annotations

from pathlib import Path

from fusion_attention._define import signature
from fusion_attention._stubs import row
from fusion_attention.inference.decode import FUNCTIONS, FUSED, FUSED_V2
from fusion_attention.inference.stubs import argument_row
from fusion_attention.inference.table import MODES, RESULTS, Function

PAGE = Path(__file__).parents[3] / "docs" / "fused_infer_attention.md"

HEADER = """\
# Decoding: npu_incre_flash_attention, npu_fused_infer_attention_score

softmax(scale·Q·Kᵀ)·V over stored keys, on torch tensors (`fusion_attention.inference.torch`,
`torch_npu.*`, `torch.ops.npu.*` while the layer is on), on NumPy arrays
(`fusion_attention.inference.numpy`); MindSpore's `incre_flash_attention` by its own words. *Written by
`python -m fusion_attention.inference.page`; do not edit.*

`incre_flash_attention` (`fusion_attention.mindspore`, `mindspore.ops` after `enable("mindspore")`) takes
MindSpore, torch and NumPy; on MindSpore tensors in PyNative, where nothing is copied, in Graph mode and in
`ms.jit`, where `ops.Custom` copies its operands, whole pools too. Its key and value may each stand in a
tuple or list of one, as its document has them. In a graph what tensors contain (lengths, tables) is
checked when it runs.

B batches, N query heads, Nkv key and value heads, Sq rows (queries), Skv keys, D channels of a head, H =
heads·D, T tokens of all packed sequences, P keys of a page; Lq and Lk the rows and keys of a sequence
that take part.
"""

RULES = """
## What holds in every call

* **One meaning**: a call over pages, a prefix, int8 or int4 gives, bit for bit, what the call on plain
  tensors gives whose rows are the stored rows, read as x = (stored + offset)·scale in float32 and rounded
  once to query's dtype.
* **Pages**: `block_table[b, t]` is the page of the pool that holds keys t·P … t·P + P − 1 of sequence b.
  What lies behind a sequence's last page is not read: −1 or anything else. An entry that a row can see
  and that is no page of the pool is refused before any page is read. P is any number of 1 or more.
  Sequences may share pages.
* **Lengths** are numbers of rows and keys, one per batch entry or one for all; of a longer list the first
  B are read. Packed layouts (TND, NTD): cumulative ends without a leading 0, but of keys in pages.
* **One row without rope** (the documents' Q_S = 1): `sparse_mode` 2 to 4, the tokens and query's lengths
  say nothing; a mask of mode 0 or 1 is applied.
* **Left padding** counts from the end: sequence b has the keys Skv − p − Lk … Skv − p − 1. Mask and
  position bias lie over the padded tensors. One row whose window begins before key 0 gives 0; more rows
  are an error.
* **A tree** (mode 9): a row sees all keys before the last Lq, and of those what the mask shows.
* **softmax_lse** is ln Σ exp(score), with the sink, +inf for rows that see nothing; not asked for, it has
  shape [0], as tracing sees it on the NPU (its document says [1]).
* **float16 with an odd inner_precise** rounds Q·Kᵀ to float16 before the scale when a sequence has
  several rows and no position bias; otherwise scores are float32 throughout.
* **An int8 query of version 2** (`dequant_scale_query`, beside int8 keys and values and rope channels of
  bfloat16 or float16): its document gives no arithmetic. Ours is that of the cache: the call whose query is
  stored·scale in float32, rounded once to the dtype of `query_rope`, which is that of the output.
* int8 query, key and value of version 1, and int8 results:
  [prompt_flash_attention.md](prompt_flash_attention.md).

Not taken: fragments of pools (NZ, 5 axes), lists of several tensors, float8, an int8 query over stored keys
but in version 2, scales per token of packed sequences (modes 1, 3; 4 and 5 are), a prefix with packed
layouts, left padding or rope. Each is refused in one sentence.

Errors: `TypeError` for an argument of the wrong Python type, `RuntimeError` for anything else; one
sentence: the argument, what was given, what is allowed. Nothing has been computed then.

Worked example: `examples/serve_paged_int8.py`, a decoder served from pages of int8.
"""

SOURCES = """
## Sources

`inference-ops` is the specification that this library was written from; its section B restates
Ascend/op-plugin `docs/zh/custom_APIs/torch_npu/torch_npu-npu_incre_flash_attention.md`,
`…-npu_fused_infer_attention_score.md`, `…-npu_fused_infer_attention_score_v2.md`, and MindSpore's
`ops.incre_flash_attention`. Rulings: docs/differences.md.
"""


def _arguments(function: Function) -> str:
    return "".join(argument_row(name, argument) for name, argument, _ in function.parameters())


def _spellings(function: Function) -> str:
    return ", ".join(f"`{name}` is `{canonical}`" for name, canonical in function.spellings.items())


def page() -> str:
    """Functions, arguments, results, what holds in every call, masks."""
    parts = [HEADER, "\n| function | arguments in order | results |\n|---|---|---|\n"]
    parts += [row(f"`{f.name}`", f"`{signature(f)}`", ", ".join(f.results)) for f in FUNCTIONS]
    parts.append(
        f"\nVersion 2 writes them differently: {_spellings(FUSED_V2)}.\nThe incre operators' "
        "`actual_seq_lengths` are those of the keys.\n"
        "\n| argument | type | default | meaning | source |\n|---|---|---|---|---|\n"
    )
    parts.append(_arguments(FUSED))
    known = {name for name, _, _ in FUSED.parameters()}
    more = {
        name: argument
        for function in FUNCTIONS
        for name, argument, _ in function.parameters()
        if name not in known and name not in function.spellings
    }
    parts += [argument_row(name, argument) for name, argument in more.items()]
    parts.append("\n| result | meaning |\n|---|---|\n")
    parts += [row(f"`{name}`", RESULTS[name]) for name in FUSED.results]
    parts.append(RULES)
    parts.append(f"\n## Masks\n\n```\n{MODES}\n```\n{SOURCES}")
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
