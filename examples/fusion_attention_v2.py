# ruff: noqa
"""The example of the interface document "flash_attention_v2", at its own size, in its own words.

The document leaves three things undefined; the lines marked "settled" settle them:
  * no tensor requires a gradient, so nothing could be differentiated: query, key and value do here;
  * `result.backward(dx)` names a dx that is nowhere defined: it is attention_score_grad, which is otherwise unused;
  * how the mask is to be read: as written it hides the past of a causal attention. Its transpose agrees with
    pre_tokens and next_tokens, so that is meant; the library says so once.

    python -m fusion_attention run examples/fusion_attention_v2.py
"""

import os
import torch
import torch_npu
import numpy as np
import math
import mindspeed.ops.fusion_attention_v2
import npu_fusion_attention

batch_size, head_num, seq_size, head_dim = 1, 32, 2048, 128
input_layout = "BNSD"
keep_prob = 1.0
pre_tokens = 65536
next_tokens = 1
scale_value = 0.088
q_scale = 1.0

input_shape = (batch_size, head_num, seq_size, head_dim)
softmax_shape = (batch_size, head_num, seq_size)
mask_shape = (1, 1, seq_size, seq_size)
dtype = torch.float16
attention_score_grad = torch.rand(input_shape).to(dtype) - 0.5
query = (torch.rand(input_shape).to(dtype) - 0.5) * 5
key = (torch.rand(input_shape).to(dtype) - 0.5) * 5
value = (torch.rand(input_shape).to(dtype) - 0.5) * 5
atten_mask = np.tri(seq_size, k=-next_tokens) + np.tri(seq_size, k=-pre_tokens).transpose()
alibi_mask = torch.zeros((batch_size, head_num, seq_size, seq_size)).to(dtype)
atten_mask = torch.from_numpy(atten_mask).to(torch.bool)

for tensor in (query, key, value):  # settled
    tensor.requires_grad_()
dx = attention_score_grad.npu()  # settled

# forward
result = npu_fusion_attention(
    query.npu(),
    key.npu(),
    value.npu(),
    atten_mask.npu(),
    None,
    scale_value,
    q_scale,
    head_num,
    input_layout,
    keep_prob,
    pre_tokens,
    next_tokens,
)

# backward
result.backward(dx)
