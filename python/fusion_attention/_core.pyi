# The binding (python/bindings/core.cc), by hand: it is small and strict typing wants exactly this.
from collections.abc import Mapping, Sequence
from typing import Any

_Array = tuple[int, int, tuple[int, ...], tuple[int, ...]]  # address, element, shape, strides in elements

__version__: str

class FusionAttention:
    def __init__(
        self,
        backward: bool,
        tockens: bool,
        query: _Array | None,
        key: _Array | None,
        value: _Array | None,
        head_num: int,
        input_layout: str,
        scale: float,
        atten_mask: _Array | None,
        sparse_mode: int,
        pre_tokens: int,
        next_tokens: int,
        actual_seq_qlen: Sequence[int] | None,
        actual_seq_kvlen: Sequence[int] | None,
        softmax_layout: str,
        keep_prob: float,
        inner_precise: int,
        prefix: Sequence[int] | None,
        pse_type: int,
        pse: _Array | None,
        padding_mask: _Array | None,
        query_rope: _Array | None,
        key_rope: _Array | None,
        sink: _Array | None,
        dropout_mask: _Array | None,
        q_start_idx: Sequence[int] | None,
        kv_start_idx: Sequence[int] | None,
        seed: int,
        offset: int,
        strict: bool | None,
    ) -> None: ...
    def forward(self, attention_out: int, softmax_max: int, softmax_sum: int, /) -> None: ...
    def backward(
        self,
        dy: _Array | None,
        softmax_max: _Array | None,
        softmax_sum: _Array | None,
        attention_in: _Array | None,
        gradients: Sequence[int],
    ) -> None: ...
    def notes(self) -> list[str]: ...
    def sequences(self) -> list[tuple[int | None, ...]]: ...
    def visible(self, sequence: int, head: int) -> bytes: ...
    def text(self) -> str: ...
    def report(self) -> str: ...
    @property
    def numels(self) -> int: ...
    @property
    def output_shape(self) -> tuple[int, ...]: ...
    @property
    def statistics_shape(self) -> tuple[int, ...]: ...

class InferenceAttention:
    def __init__(
        self,
        interface: str,
        query: _Array | None,
        key: _Array | None,
        value: _Array | None,
        words: Mapping[str, object],
        strict: bool | None,
    ) -> None: ...
    def forward(self, attention_out: int, softmax_lse: int) -> None: ...
    def notes(self) -> list[str]: ...
    def text(self) -> str: ...
    def report(self) -> str: ...
    @property
    def output_element(self) -> int: ...
    @property
    def output_shape(self) -> tuple[int, ...]: ...
    @property
    def lse_shape(self) -> tuple[int, ...]: ...

class FlashAttentionCell:
    def __init__(
        self,
        backward: bool,
        words: tuple[int, float, int, int, str, int, int, bool, bool],
        given: tuple[_Array | None, ...],
        seed: int,
        whole: tuple[int, int, int],
    ) -> None: ...
    @staticmethod
    def check(words: tuple[int, float, int, int, str, int, int, bool, bool]) -> None: ...
    def forward(self, out: int, softmax_max: int, softmax_sum: int, /) -> None: ...
    def backward(
        self,
        dy: _Array | None,
        out: _Array | None,
        softmax_max: int,
        softmax_sum: int,
        dq: int,
        dk: int,
        dv: int,
        /,
    ) -> None: ...
    def notes(self) -> list[str]: ...
    def texts(self) -> list[str]: ...

def is_strict(chosen: bool | None) -> bool: ...
def documented_limits() -> list[tuple[str, list[str], str, str, str]]: ...
def refuse_undocumented(
    interface: str,
    backward: bool,
    query: _Array,
    key: _Array,
    value: _Array,
    head_num: int,
    input_layout: str,
    atten_mask: _Array | None,
    pse: _Array | None,
    pse_type: int,
    sparse_mode: int,
    prefix: Sequence[int] | None,
    actual_seq_qlen: Sequence[int] | None,
    actual_seq_kvlen: Sequence[int] | None,
) -> None: ...
def dropout_mask_bytes(numbers: int) -> int: ...
def dropout_mask(address: int, numbers: int, p: float, seed: int, offset: int) -> None: ...
def cpu_name() -> str: ...
def instruction_sets() -> list[tuple[str, str]]: ...
def kernels_built() -> list[tuple[str, str]]: ...
def choices() -> list[dict[str, Any]]: ...
def roofs() -> list[tuple[str, str]]: ...
def measure_roof(name: str, seconds: float) -> float: ...
def thread_count() -> int: ...
def set_thread_count(threads: int) -> None: ...
