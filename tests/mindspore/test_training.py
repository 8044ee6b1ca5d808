"""A small transformer block learns with the cell as it learns with MindSpore's own operators."""

from __future__ import annotations

import os

import numpy as np
import pytest
from fusion_attention.cell import FlashAttention
from mindspore import Parameter, Tensor, nn, ops

SEED = int(os.environ["FUSION_ATTENTION_SEED"])
B, N, S, D, STEPS = 2, 4, 192, 16, 20
MASK = np.triu(np.ones((1, 128, 128), np.float16), k=1)


class PlainAttention(nn.Cell):
    """The cell's document for a causal mask, in MindSpore's operators."""

    def __init__(self):
        super().__init__()
        self.added = Tensor(-10000.0 * np.triu(np.ones((S, S), np.float32), k=1))

    def construct(self, query, key, value, mask):
        y = ops.matmul(query, key.swapaxes(2, 3)) / D**0.5 + self.added
        return ops.matmul(ops.softmax(y, -1), value)


class Block(nn.Cell):
    """Attention and a feed-forward, each after a norm and added to its input."""

    def __init__(self, attention, rng):
        super().__init__()
        width = N * D
        self.attention, self.mask = attention, Tensor(MASK)
        self.norms = nn.CellList([nn.LayerNorm((width,)), nn.LayerNorm((width,))])

        def weight(rows, columns, name):
            return Parameter(
                Tensor((rng.standard_normal((rows, columns)) / rows**0.5).astype(np.float32)), name
            )

        self.qkv, self.out = weight(width, 3 * width, "qkv"), weight(width, width, "out")
        self.up, self.down = weight(width, 4 * width, "up"), weight(4 * width, width, "down")

    def construct(self, x):
        qkv = ops.matmul(self.norms[0](x), self.qkv).reshape(B, S, 3, N, D)
        query, key, value = (qkv[:, :, i].swapaxes(1, 2) for i in range(3))
        attended = self.attention(query, key, value, self.mask)
        x = x + ops.matmul(attended.swapaxes(1, 2).reshape(B, S, N * D), self.out)
        return x + ops.matmul(ops.relu(ops.matmul(self.norms[1](x), self.up)), self.down)


class Loss(nn.Cell):
    def __init__(self, block):
        super().__init__()
        self.block = block

    def construct(self, x, target):
        return ((self.block(x) - target) ** 2).mean()


def losses(attention):
    rng = np.random.default_rng(SEED)
    block = Block(attention, rng)
    x, target = (Tensor(rng.standard_normal((B, S, N * D)).astype(np.float32)) for _ in range(2))
    step = nn.TrainOneStepCell(Loss(block), nn.Adam(block.trainable_params(), learning_rate=1e-2))
    step.set_train()
    return np.array([float(step(x, target).asnumpy()) for _ in range(STEPS)])


def test_twenty_steps(mode):
    with_cell, with_operators = losses(FlashAttention(D, next_block_num=0)), losses(PlainAttention())
    apart = np.abs(with_cell / with_operators - 1).max()
    first, last = with_cell[0], with_cell[-1]
    print(f"\nnote: {mode}: loss {first:.4f} → {last:.4f} in {STEPS} steps, apart {apart:.1e}")
    assert with_cell[-1] < 0.7 * with_cell[0]
    assert apart < 1e-3


@pytest.mark.parametrize("prev_block_num", [0])
def test_the_losses_can_tell(mode, prev_block_num):
    """A cell that sees less learns differently: the comparison above is no accident."""
    blocked = losses(FlashAttention(D, prev_block_num=prev_block_num, next_block_num=0))
    assert np.abs(blocked / losses(PlainAttention()) - 1).max() > 1e-3
