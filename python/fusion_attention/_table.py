"""The one table of npu_fusion_attention and its gradients: what each argument is, in words of the documents.

Signatures, docstrings, stubs, torch schemas and type checks are made from it (`_define.py`); what is legal
beyond types is decided once, in C++. Canonical names are those of version 2; the functions at the end of this
file say how each version spells and orders them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

INT_MAX: Final = 2147483647
REQUIRED: Final = ...  # the default of an argument that has none

FLOATING = "float32, float16 or bfloat16"

NOTATION = """\
B batches, N query heads, Nkv key and value heads, Sq rows (queries), Skv keys, D channels of a head, T tokens
of all packed sequences; row i and key j are counted within their sequence."""


@dataclass(frozen=True)
class Argument:
    """One argument. kind: tensor, int, symint, float, str, bool, dtype or ints (1-D: list, tuple, array)."""

    name: str
    kind: str
    says: str
    default: Any = REQUIRED
    dtypes: str = ""
    source: str = "training-ops 1.1"  # the row of the documents that it comes from

    @property
    def optional(self) -> bool:
        return self.default is None


# In the order of the C++ constructor and of the torch operators.
ARGUMENTS = (
    Argument("query", "tensor", "the queries, laid out as input_layout says; any strides", dtypes=FLOATING),
    Argument("key", "tensor", "the keys, with Nkv heads; Nkv divides query's N", dtypes="query's dtype"),
    Argument(
        "value",
        "tensor",
        "the values, with Nkv heads; their D may differ from query's",
        dtypes="query's dtype",
    ),
    Argument("head_num", "symint", "N, the number of heads of query"),
    Argument(
        "input_layout",
        "str",
        "the axes of query, key, value and attention_out: BSH, SBH (H is heads·D), BSND, BNSD or TND, in "
        "either case",
        source="training-ops 2",
    ),
    Argument("scale", "float", "multiplies Q·Kᵀ in float32; any finite number", 1.0, source="training-ops 3"),
    Argument(
        "atten_mask",
        "tensor",
        "non-zero hides that key from that row. sparse_mode 0, 1, 5: [Sq, Skv] or [1 or B, 1 or N, Sq, Skv], "
        "TND [longest Sq, longest Skv]. 2, 3, 4, 7, 8: [2048, 2048] and 6: [3072, 2048], content not read. "
        "None: full attention whatever sparse_mode, the tokens and prefix say",
        None,
        "bool, uint8 or int8",
        "training-ops 4.1",
    ),
    Argument(
        "sparse_mode",
        "int",
        "0 mask and tokens, 1 mask alone, 2 causal from the top left, 3 causal from the bottom right, 4 band "
        "from the bottom right, 5 mask and prefix (not TND), 6 causal from the bottom right and prefix; TND: "
        "7 as 3 but the last sequence shifted by next_tokens, 8 as 2 but the first sequence from the bottom "
        "right shifted by next_tokens",
        0,
        source="training-ops 4.2",
    ),
    Argument(
        "pre_tokens",
        "symint",
        "modes 0 and 4: a row sees this many keys before its own; 7 and 8: no less than the keys of the "
        "shifted sequence",
        INT_MAX,
        source="training-ops 4.2",
    ),
    Argument(
        "next_tokens",
        "symint",
        "modes 0 and 4: a row sees this many keys after its own; 7 (0 or less) and 8: the shift",
        INT_MAX,
        source="training-ops 4.2",
    ),
    Argument(
        "actual_seq_qlen",
        "ints",
        "TND: cumulative ends of the query sequences, no leading 0; trailing zeros take no part",
        None,
        source="training-ops 5",
    ),
    Argument("actual_seq_kvlen", "ints", "TND: the same of key and value", None, source="training-ops 5"),
    Argument(
        "softmax_layout",
        "str",
        '"": TND statistics lie head-major per sequence; "TND": in their natural order',
        "",
        source="training-ops 1.10",
    ),
    Argument(
        "keep_prob",
        "float",
        "1 − the dropout probability, in (0, 1]; what is kept is divided by it",
        1.0,
        source="training-ops 6",
    ),
    Argument("inner_precise", "int", "0 to 3, without effect: every value meets both descriptions", 0),
    Argument(
        "prefix",
        "ints",
        "modes 5 and 6: keys that every row sees, one number per batch entry or sequence, each within "
        "max(Skv − Sq, 0) to Skv",
        None,
        source="training-ops 4.2",
    ),
    Argument(
        "pse_type",
        "int",
        "0: scale·Q·Kᵀ + pse; 1: scale·(Q·Kᵀ + pse); 2: scale·Q·Kᵀ − slope·|j − i|; 3: with the square root "
        "of |j − i|",
        1,
        source="training-ops 3.1",
    ),
    Argument(
        "pse",
        "tensor",
        "a bias on the scores. Types 0 and 1: [1 or B, 1 or N, 1 or Sq, Skv]; [1 or B, 1 or N, 1024, S], the "
        "last 1024 rows of one that depends on j − i alone, under a causal mask; TND: [N·Σ sq·skv], "
        "[N·Σ skv] or the last 1024 rows. Types 2 and 3: slopes [N] or [B, N]",
        None,
        "query's dtype; slopes float32",
        "training-ops 3.2",
    ),
    Argument("padding_mask", "tensor", "must be None, as in the documents", None),
    Argument(
        "query_rope",
        "tensor",
        "more channels of query, in its layout with a D of their own: Q·Kᵀ becomes Q·Kᵀ + Qr·Krᵀ",
        None,
        "query's dtype",
        "training-ops 1.3",
    ),
    Argument("key_rope", "tensor", "the same of key", None, "query's dtype", "training-ops 1.3"),
    Argument(
        "sink",
        "tensor",
        "[N]: one more logit per head, which joins max and sum and has no value",
        None,
        "float32",
        "training-ops 3",
    ),
    Argument(
        "dropout_mask",
        "tensor",
        "a bit per score, 1 keeps, the lowest bit of a byte first, in the order [B, N, Sq, Skv] or, TND, "
        "[N, sq, skv] of each sequence; used instead of bits from seed and offset",
        None,
        "uint8",
        "training-ops 6.1",
    ),
    Argument(
        "q_start_idx",
        "ints",
        "pse_type 2 and 3: one number, the position of the first row. With kv_start_idx or not at all; "
        "sparse_mode 8: of the first sequence alone",
        None,
        source="training-ops 3.1",
    ),
    Argument("kv_start_idx", "ints", "the same of the first key", None, source="training-ops 3.1"),
)

# What the functions take beside the above.
OTHERS = (
    Argument(
        "dy", "tensor", "the gradient of attention_out", dtypes="query's dtype", source="training-ops 7"
    ),
    Argument(
        "softmax_max",
        "tensor",
        "as the forward returned it; never recomputed",
        None,
        "float32",
        "training-ops 7",
    ),
    Argument(
        "softmax_sum",
        "tensor",
        "as the forward returned it; never recomputed",
        None,
        "float32",
        "training-ops 7",
    ),
    Argument("softmax_in", "tensor", "without effect", None),
    Argument(
        "attention_in",
        "tensor",
        "attention_out; must not be None",
        None,
        "query's dtype",
        source="training-ops 7",
    ),
    Argument(
        "seed",
        "int",
        "of the dropout bits. A forward whose seed and offset are both 0 takes the next ones of "
        "fusion_attention.generator; the gradient takes what the forward returned",
        0,
        source="training-ops 6",
    ),
    Argument("offset", "int", "of the dropout bits", 0, source="training-ops 6"),
    Argument("numels", "int", "without effect: the shapes say it", 0),
    Argument("gen_mask_parallel", "bool", "without effect", True),
    Argument("sync", "bool", "without effect", False),
)

BY_NAME = {argument.name: argument for argument in (*ARGUMENTS, *OTHERS)}
PLACE = {argument.name: place for place, argument in enumerate(ARGUMENTS)}

# ARGUMENTS[:COMMON] is what every call passes on; the rest only when something in it is not at its default:
# each argument of a torch operator costs about a quarter of a microsecond.
COMMON = PLACE["sparse_mode"] + 1

RESULTS = {
    "attention_out": "the output, contiguous, in query's layout with value's D",
    "softmax_max": "float32 [B, N, Sq, 8], TND [T, N, 8]: the largest visible score of each row, with sink, "
    "eight times",
    "softmax_sum": "float32, same shape: the sum of exp(score − max) of each row before dropout, eight times",
    "softmax_out": "reserved, of shape [0]",
    "seed": "of the dropout bits, for the gradient; as given where keep_prob is 1",
    "offset": "of the dropout bits, for the gradient; as given where keep_prob is 1",
    "numels": "B·N·Sq·Skv; TND: N·Σ sq·skv",
    "dq": "the gradient of query",
    "dk": "the gradient of key, summed over the query heads that share it",
    "dv": "the gradient of value, summed over the query heads that share it",
    "dpse": "the gradient of pse in its type and shape, summed over what it broadcasts; None for slopes, "
    "whose gradient autograd alone computes, in O(N·Sq·Skv) memory",
    "dq_rope": "the gradient of query_rope, or None",
    "dk_rope": "the gradient of key_rope, or None",
    "dsink": "the gradient of sink, float32 [N], or None",
}


# What versions 1 and 3 and the gradients write differently from version 2.
_SPELLINGS = {"pre_tockens": "pre_tokens", "next_tockens": "next_tokens", "scale_value": "scale"}


@dataclass(frozen=True)
class Function:
    """One function of the family: its own spelling and order of the arguments above."""

    name: str
    positional: str  # names in the caller's spelling
    keywords: str  # keyword-only ones
    results: tuple[str, ...]
    version: int
    backward: bool = False

    def parameters(self) -> Iterator[tuple[str, Argument, bool]]:
        """(the caller's name, the argument, keyword-only) in order."""
        for names, keyword_only in ((self.positional, False), (self.keywords, True)):
            for name in names.split():
                argument = BY_NAME[_SPELLINGS.get(name, name)]
                if self.version == 3 and name in ("seed", "offset"):
                    argument = replace(argument, kind="tensor", default=None)
                yield name, argument, keyword_only

    @property
    def tockens(self) -> bool:
        return "pre_tockens" in (self.positional + self.keywords).split()


_FORWARD = "query key value head_num input_layout"
_BACKWARD = "query key value dy head_num input_layout"
_SAVED = "softmax_max softmax_sum softmax_in attention_in"
_V1 = (
    "pse padding_mask atten_mask scale keep_prob pre_tockens next_tockens inner_precise "
    "prefix actual_seq_qlen actual_seq_kvlen sparse_mode gen_mask_parallel sync softmax_layout sink"
)
_SEVEN = ("attention_out", "softmax_max", "softmax_sum", "softmax_out", "seed", "offset", "numels")

V1 = Function("npu_fusion_attention", f"{_FORWARD} {_V1} dropout_mask seed offset", "", _SEVEN, 1)
V2 = Function(
    "npu_fusion_attention_v2",
    _FORWARD,
    "pse padding_mask atten_mask query_rope key_rope scale keep_prob pre_tokens next_tokens inner_precise "
    "prefix actual_seq_qlen actual_seq_kvlen sparse_mode gen_mask_parallel sync pse_type q_start_idx "
    "kv_start_idx softmax_layout sink dropout_mask seed offset",
    _SEVEN,
    2,
)
V3 = Function("npu_fusion_attention_v3", f"{_FORWARD} {_V1}", "", _SEVEN[:6], 3)
V1_GRAD = Function(
    "npu_fusion_attention_grad",
    _BACKWARD,
    f"pse padding_mask atten_mask {_SAVED} scale_value keep_prob pre_tockens next_tockens inner_precise seed "
    "offset numels prefix actual_seq_qlen actual_seq_kvlen sparse_mode gen_mask_parallel sync softmax_layout "
    "sink",
    ("dq", "dk", "dv", "dpse", "dsink"),
    1,
    backward=True,
)
V2_GRAD = Function(
    "npu_fusion_attention_grad_v2",
    _BACKWARD,
    f"pse padding_mask atten_mask {_SAVED} query_rope key_rope scale_value keep_prob pre_tokens next_tokens "
    "inner_precise seed offset numels prefix actual_seq_qlen actual_seq_kvlen sparse_mode gen_mask_parallel "
    "sync pse_type q_start_idx kv_start_idx softmax_layout sink",
    ("dq", "dk", "dv", "dpse", "dq_rope", "dk_rope", "dsink"),
    2,
    backward=True,
)
V3_GRAD = Function(
    "npu_fusion_attention_grad_v3",
    _BACKWARD,
    f"pse padding_mask atten_mask {_SAVED} scale_value keep_prob pre_tockens next_tockens inner_precise seed "
    "offset prefix actual_seq_qlen actual_seq_kvlen sparse_mode gen_mask_parallel sync softmax_layout sink",
    ("dq", "dk", "dv", "dpse", "dsink"),
    3,
    backward=True,
)
FUNCTIONS = (V1, V2, V3, V1_GRAD, V2_GRAD, V3_GRAD)

MODES = """\
What a row (downwards) sees of the keys (to the right); Sq = 4, Skv = 6, # is seen:

    mode 2        mode 3        mode 4, pre 2, next 0    mode 0, pre 1, next 1
    #.....        ###...        ###...                   ##....
    ##....        ####..        .###..                   ###...
    ###...        #####.        ..###.                   .###..
    ####..        ######        ...###                   ..###.

Mode 6 is mode 3 with the first `prefix` keys shown to every row:

    prefix 4      prefix 6
    ####..        ######
    ####..        ######
    #####.        ######
    ######        ######

Mode 7 is mode 3 and mode 8 mode 2 for all sequences but one: in mode 7 the last with rows, in mode 8 the
first sees j <= i + Skv - Sq + next.
Modes 0, 1 and 5 hide what atten_mask hides. Without atten_mask every row sees every key, in every mode.
A row that sees nothing gives output 0, gradients 0 and the statistics (-FLT_MAX, 1)."""
