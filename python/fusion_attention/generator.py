"""The generator behind dropout: a Philox seed and offset, advanced as the NPU's own generator advances.

One draw per forward hands out the current pair and moves the offset by 12: ten random words, rounded up to
whole groups of four. So the first call after `manual_seed(2)` gets (2, 0) and the next (2, 12).
"""

from __future__ import annotations

import struct
import threading
from contextlib import AbstractContextManager

WORDS_PER_DRAW = 10
DEFAULT_SEED = 67280421310721  # torch's own default for every generator
_STATE = struct.Struct("<QQ")  # seed, offset


class PhiloxState:
    """Seed and offset, safe to draw from in several threads."""

    def __init__(self, seed: int = DEFAULT_SEED) -> None:
        self._lock = threading.Lock()
        self._seed = seed
        self._offset = 0

    @property
    def seed(self) -> int:
        return self._seed

    @property
    def offset(self) -> int:
        return self._offset

    def manual_seed(self, seed: int) -> None:
        if not -(2**63) <= seed < 2**64:
            raise RuntimeError(f"seed: got {seed}, allowed is a number of 64 bits")
        with self._lock:
            self._seed, self._offset = seed % 2**64, 0

    def draw(self, words: int = WORDS_PER_DRAW) -> tuple[int, int]:
        """The pair for one dropout call, and on to the next."""
        with self._lock:
            drawn = self._seed, self._offset
            self._offset += -(-words // 4) * 4
            return drawn

    def state(self) -> bytes:
        with self._lock:
            return _STATE.pack(self._seed, self._offset)

    def set_state(self, state: bytes) -> None:
        if len(state) != _STATE.size:
            raise RuntimeError(
                f"new_state: got {len(state)} bytes, allowed are {_STATE.size}: seed and offset"
            )
        with self._lock:
            self._seed, self._offset = _STATE.unpack(state)


default = PhiloxState()


def manual_seed(seed: int) -> None:
    """Seeds what dropout draws from where a call names no seed and offset of its own."""
    default.manual_seed(seed)


def draw() -> tuple[int, int]:
    """The seed, as the signed number of 64 bits that tensors hold, and the offset of one call."""
    seed, offset = default.draw()
    return (seed - 2**64 if seed >= 2**63 else seed), offset


class _From(AbstractContextManager["_From", None]):
    """Inside, draws begin where `places` says, or where the generator stands, which is noted there."""

    def __init__(self, places: list[bytes], replay: bool) -> None:
        self._places, self._replay, self._now = places, replay, b""

    def __enter__(self) -> _From:
        self._now = default.state()
        if self._replay:
            default.set_state(self._places[0])
        else:
            self._places.append(self._now)
        return self

    def __exit__(self, *_: object) -> None:
        if self._replay:
            default.set_state(self._now)


def checkpoint_contexts() -> tuple[AbstractContextManager[_From], AbstractContextManager[_From]]:
    """Lets recomputation draw the dropout of its forward, as torch does for its own generators alone.

        checkpoint(block, x, use_reentrant=False, context_fn=fusion_attention.generator.checkpoint_contexts)

    Not needed at the device level of the torch_npu layer, where torch's own states carry this one.

    Returns:
        The context of the forward and that of its recomputation, as `torch.utils.checkpoint.checkpoint` asks.
    """
    places: list[bytes] = []
    return _From(places, replay=False), _From(places, replay=True)
