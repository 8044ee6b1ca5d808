# ruff: noqa
"""The usage that the document of ascendspeed.ops shows, call by call, in its own words.

Lines break where the document breaks them. It shows calls and no values; the lines marked "settled" give what it
leaves out:
  * the values of every argument, and where dy, the statistics and attention_in of "single backward" come from;
  * FlashAttention is used by a name that `import ascendspeed.ops` alone does not bind;
  * `self` is passed on, so the calls stand in methods.
"binding backward" comes last, since it makes query require a gradient.

    python -m fusion_attention run examples/npu_flash_attention.py
"""
# fmt: off

import torch
import torch_npu
import ascendspeed.ops
from ascendspeed.ops import FlashAttention  # settled

batch_size, head_num, seq_size, head_dim = 2, 4, 256, 64  # settled, and what follows
input_layout = "BSH"
shape = (batch_size, seq_size, head_num * head_dim)
query = torch.randn(shape).to(torch.float16)
key = torch.randn(shape).to(torch.float16)
value = torch.randn(shape).to(torch.float16)
dy = torch.randn(shape).to(torch.float16)
pse = None
padding_mask = None
atten_mask = torch.ones(seq_size, seq_size).triu(1).to(torch.float16)
scale = scale_value = head_dim ** -0.5
keep_prob = 1.0
pre_tockens = 65536
next_tockens = 0
gen_mask_parallel = True
sync = False


class Attention(torch.nn.Module):  # settled
    def binding_forward(self):
        flash = FlashAttention()
        score = flash(self, query, key, value, head_num, input_layout, pse, padding_mask, atten_mask,
                        scale, keep_prob, pre_tockens, next_tockens, gen_mask_parallel, sync)
        return score

    def binding_backward(self):
        flash = FlashAttention()
        query.requires_grad = True
        score = flash(self, query, key, value, head_num, input_layout, pse, padding_mask, atten_mask,
                        scale, keep_prob, pre_tockens, next_tockens, gen_mask_parallel, sync)
        score.backward()
        query_grad = query.grad
        return query_grad


# binding forward
bound_score = Attention().binding_forward()

# single forward
score = ascendspeed.ops.npu_flash_attention(query, key, value, head_num, input_layout, pse, padding_mask, atten_mask,
                scale, keep_prob, pre_tockens, next_tockens, gen_mask_parallel, sync)

# single backward
softmax_max, softmax_sum, softmax_in, attention_in = score.softmax_max, score.softmax_sum, None, score  # settled
grad = ascendspeed.ops.npu_flash_attention_grad(query, key, value, dy, head_num, input_layout, pse, padding_mask,
                             atten_mask, softmax_max, softmax_sum, softmax_in, attention_in, scale_value,
                             keep_prob, pre_tockens, next_tockens, gen_mask_parallel, sync)

# binding backward
query_grad = Attention().binding_backward()
