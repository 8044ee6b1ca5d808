"""The table of the inference operators: what each argument is, in words of the documents.

Signatures, docstrings, stubs, torch schemas and type checks are made from it (`define.py`); what is legal
beyond types is decided once, in C++. Canonical names are those of C++'s InferenceOptions; a function says how
it spells, orders and defaults them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from fusion_attention._table import INT_MAX, Argument

SECTION: Final = "inference-ops "

NOTATION = """\
B batches, N query heads, Nkv key and value heads, Sq rows (queries), Skv keys, D channels of a head; Lq and
Lk the rows and keys of a batch entry that take part; row i and key j are counted within their sequence."""

MODES = """\
What a row (downwards) sees of the keys (to the right); Lq = 4, Lk = 6, # is seen:

    mode 2        mode 3        mode 4, pre 2, next 0    mode 0, pre 1, next 1
    #.....        ###...        ###...                   ##....
    ##....        ####..        .###..                   ###...
    ###...        #####.        ..###.                   .###..
    ####..        ######        ...###                   ..###.

Modes 0 and 1 hide what the mask hides. Mode 0 without a mask shows every key, whatever the tokens say.
Keys from Lk on take no part; rows from Lq on, and rows that see nothing, give output 0."""


def _row(
    name: str, kind: str, says: str, default: Any = ..., dtypes: str = "", source: str = "A.1"
) -> Argument:
    return Argument(name, kind, says, default, dtypes, SECTION + source)


ARGUMENTS = (
    _row("query", "tensor", "the queries, laid out as input_layout says; any strides", source="A.2"),
    _row("key", "tensor", "the keys, with Nkv heads", dtypes="query's dtype", source="A.2"),
    _row("value", "tensor", "the values, with Nkv heads", dtypes="query's dtype", source="A.2"),
    _row(
        "atten_mask",
        "tensor",
        "non-zero hides that key from that row. sparse_mode 0, 1: [Sq, Skv], [1 or B, Sq, Skv] or "
        "[1 or B, 1, Sq, Skv]. 2, 3, 4: [2048, 2048], [1, 2048, 2048] or [1, 1, 2048, 2048], content not "
        "read. None: full attention with sparse_mode 0, an error with any other",
        None,
        "bool, int8, uint8 or float16",
        "A.5",
    ),
    _row(
        "actual_seq_lengths",
        "ints",
        "Lq, one number per batch entry or one for all; TND: cumulative ends, no leading 0",
        None,
        source="A.4",
    ),
    _row("actual_seq_lengths_kv", "ints", "Lk, the same of key and value", None, source="A.4"),
    _row(
        "pse_shift",
        "tensor",
        "added to the scaled scores: [1 or B, N, Sq or more, Skv or more], top left aligned",
        None,
        "query's dtype, float16 with int8",
        "A.10",
    ),
    _row(
        "deq_scale1",
        "tensor",
        "int8: Q·Kᵀ in integers times this; a float32, or the uint64 whose low half holds its bits",
        None,
        "float32 or uint64, one element",
        "A.11",
    ),
    _row("quant_scale1", "tensor", "int8: makes int8 of the softmax", None, "float32, one element", "A.11"),
    _row(
        "deq_scale2",
        "tensor",
        "int8: P·V in integers times this",
        None,
        "deq_scale1's dtype, one element",
        "A.11",
    ),
    _row(
        "quant_scale2",
        "tensor",
        "makes int8 of the output: one number, or N·D in the order [N, D]",
        None,
        "float32, or bfloat16 with a bfloat16 query",
        "A.11",
    ),
    _row(
        "quant_offset2", "tensor", "added after quant_scale2, 0 where None", None, "as quant_scale2", "A.11"
    ),
    _row("num_heads", "symint", "N, the number of heads of query", 1, source="A.3"),
    _row("scale", "float", "multiplies Q·Kᵀ; any finite number", 1.0),
    _row(
        "pre_tokens",
        "symint",
        "modes 0 and 4: a row sees this many keys before its own",
        INT_MAX,
        source="A.6",
    ),
    _row("next_tokens", "symint", "modes 0 and 4: a row sees this many keys after its own", 0, source="A.6"),
    _row("input_layout", "str", "the axes of query, key and value", "BSH", source="A.2"),
    _row(
        "num_key_value_heads",
        "symint",
        "Nkv, a divisor of N; 0: as many. Query head n reads key head n / (N / Nkv)",
        0,
        source="A.3",
    ),
    _row(
        "sparse_mode",
        "int",
        "0 mask and tokens, 1 mask alone, 2 causal from the top left, 3 causal from the bottom right, 4 band "
        "from the bottom right",
        0,
        source="A.6",
    ),
    _row(
        "inner_precise",
        "int",
        "float16: 1 and 3 round Q·Kᵀ to float16 before the scale, 0 and 2 keep float32 throughout; without "
        "effect on other dtypes and with pse_shift",
        1,
        source="A.8",
    ),
    _row("padding_mask", "tensor", "must be None, as in the documents", None, source="B.1"),
)

BY_NAME = {argument.name: argument for argument in ARGUMENTS}
OPERANDS: Final = 3  # query, key, value

RESULTS = {
    "attention_out": "the output, contiguous, in query's shape with value's D. Its dtype is query's; float16 "
    "of int8 operands; int8 with quant_scale2",
    "softmax_lse": "float32 [B, N, Sq, 1], packed [T, N, 1]: ln Σ exp(score) with the sink, +inf for a row "
    "that sees nothing; of shape [0] where it is not asked for",
}


@dataclass(frozen=True)
class Function:
    """One function: its own spelling, order and defaults of the arguments above."""

    name: str  # also that of its interface in C++
    says: str
    positional: str  # names in the caller's spelling
    keywords: str = ""  # keyword-only ones
    results: tuple[str, ...] = ("attention_out",)  # or softmax_lse, too
    spellings: Mapping[str, str] = field(default_factory=dict)  # the caller's name: the canonical one
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # of a row, by canonical name
    rows: Mapping[str, Argument] = field(default_factory=lambda: BY_NAME)  # by canonical name
    lists: tuple[str, ...] = ()  # operands that may stand in a tuple or list of one
    # Its document lists errors: bool is no int, TypeError for every wrong type, ValueError for a wrong form.
    has_error_table: bool = False

    def parameters(self) -> Iterator[tuple[str, Argument, bool]]:
        """(the caller's name, the argument, keyword-only) in order."""
        for names, keyword_only in ((self.positional, False), (self.keywords, True)):
            for name in names.split():
                canonical = self.spellings.get(name, name)
                changes = self.changes.get(canonical, {})
                yield name, replace(self.rows[canonical], **changes), keyword_only


_SCALES = "deq_scale1 quant_scale1 deq_scale2 quant_scale2 quant_offset2"
_ANY = "int8, float16, bfloat16 or float32"

PROMPT = Function(
    "prompt_flash_attention",
    "Attention of whole prompts, softmax(scale·Q·Kᵀ)·V: mindspore.ops.prompt_flash_attention",
    "query key value attn_mask actual_seq_lengths actual_seq_lengths_kv pse_shift "
    f"{_SCALES} num_heads scale_value pre_tokens next_tokens input_layout num_key_value_heads sparse_mode "
    "inner_precise",
    spellings={"attn_mask": "atten_mask", "scale_value": "scale"},
    changes={
        "query": {"dtypes": "int8, float16 or bfloat16 (D a multiple of 16)"},
        "input_layout": {"says": "the axes of query, key and value: BSH (H is heads·D) or BNSD"},
        "atten_mask": {
            "says": BY_NAME["atten_mask"].says.replace("[1, 1, 2048", "[1 or B, 1, 2048"),
        },
        "actual_seq_lengths": {"says": "Lq, one number per batch entry or one for all"},
    },
    has_error_table=True,
)
NPU_PROMPT = Function(
    "npu_prompt_flash_attention",
    "Attention of whole prompts, softmax(scale·Q·Kᵀ)·V: torch_npu.npu_prompt_flash_attention",
    "query key value",
    f"padding_mask atten_mask pse_shift actual_seq_lengths {_SCALES} num_heads scale_value pre_tokens "
    "next_tokens input_layout num_key_value_heads actual_seq_lengths_kv sparse_mode",
    spellings={"scale_value": "scale"},
    changes={
        "query": {"dtypes": _ANY},
        "input_layout": {
            "says": "the axes of query, key and value: BSH (H is heads·D), BNSD, BSND, BNSD_BSND (the output "
            "is BSND) or TND (packed sequences, sparse_mode 0 without a mask, 2, 3 or 4), in either case"
        },
        "atten_mask": {
            "says": BY_NAME["atten_mask"].says.replace(
                ". 2, 3, 4", "; the last two axes may be longer. 2, 3, 4"
            )
        },
        "deq_scale1": {"dtypes": "float32, uint64, or int64 holding its bits; one element"},
        "sparse_mode": {"says": BY_NAME["sparse_mode"].says + "; 10 to 14: 0 to 4 in high precision"},
    },
)
