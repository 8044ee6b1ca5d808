# ruff: noqa
"""The two examples of the acctransformer document, its mask and its cell, one after the other, in its own words.

Nothing is changed. Where MindSpore is not installed there is nothing to run.

    python -m fusion_attention run --names --layers flash_attention examples/flash_attention_cell.py
"""

import numpy as np
import mindspore as ms
from mindspore import Tensor

attention_mask = np.triu(np.ones((1, 128, 128), dtype=np.float16), k=1)
attention_mask = Tensor(attention_mask, dtype=ms.float16)
print(attention_mask)

import numpy as np
from mindspore import dtype as mstype
from accspeed.nn.layer.flash_attention import FlashAttention
from mindspore import Tensor

model = FlashAttention(head_dim=128, dropout_rate=0.1, prev_block_num=7, next_block_num=0)
query = Tensor(np.ones((2, 16, 4096, 128)), mstype.float16)
key = Tensor(np.ones((2, 16, 4096, 128)), mstype.float16)
value = Tensor(np.ones((2, 16, 4096, 128)), mstype.float16)
attention_mask = Tensor(np.triu(np.ones((1, 128, 128)), k=1), mstype.float16)
output = model(query, key, value, attention_mask)
print(output.shape)
