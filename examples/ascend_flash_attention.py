# ruff: noqa
"""The example of the interface document "flash_attention" (ascendspeed.te.ops), at its own size, in its own words.

Lines break where the document breaks them. It breaks itself in these places; the lines marked "settled" settle them:
  * its comments begin with //, which is no Python: # here;
  * `result.backward()` is called on a result of many elements, which torch refuses: attention_score_grad, otherwise
    unused, is the gradient it was made for.
As written its mask hides the past of a causal attention. Its transpose agrees with pre_tokens and next_tokens, so
that is meant; the library says so once.

    python -m fusion_attention run examples/ascend_flash_attention.py
"""
# fmt: off

import os
import torch
import torch_npu
import numpy as np
import math
import ascendspeed.te.ops

batch_size, head_num, seq_size, head_dim = 1, 32, 2048, 128
input_layout = "BNSD"
keep_prob = 1.0
pre_tokens = 65536
next_tokens = 1
scale_value = 0.088

input_shape = (batch_size, head_num, seq_size, head_dim)
softmax_shape = (batch_size, head_num, seq_size)
mask_shape = (1, 1, seq_size, seq_size)
dtype = torch.float16
attention_score_grad = (torch.rand(input_shape).to(torch.float) - 0.5)
query = (torch.rand(input_shape).to(torch.float) - 0.5) * 5
key = (torch.rand(input_shape).to(torch.float) - 0.5) * 5
value = (torch.rand(input_shape).to(torch.float) - 0.5) * 5

atten_mask = np.tri(seq_size, k=-next_tokens) + np.tri(seq_size, k=-pre_tokens).transpose()
alibi_mask = torch.zeros((batch_size, head_num, seq_size, seq_size)).to(torch.float)
atten_mask = torch.from_numpy(atten_mask).to(torch.float)

# 正向接口案例 (settled: //)
query.requires_grad = True
key.requires_grad = True
value.requires_grad = True
result = ascendspeed.te.ops.ascend_flash_attention(query, key, value, atten_mask, None, None, scale_value, head_num, 0, keep_prob, pre_tokens, next_tokens, 0, -1)


# 反向接口案例 (settled: //)
result.backward(attention_score_grad)  # settled: without a gradient in the document
query_grad = query.grad.data.cpu().to(torch.float).numpy()
key_grad = key.grad.data.cpu().to(torch.float).numpy()
value_grad = value.grad.data.cpu().to(torch.float).numpy()
