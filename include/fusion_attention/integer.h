// Attention on int8 operands, and int8 results: the integer pipeline of the prompt interface.
//
//   S = fp16(fp16(score_scale·Σ q·k)·scale) + bias, in halves; hidden pairs take no part
//   P = fp16(exp(S − m)) with m the maximum so far, l its exact sum, over key tiles of 1024 from key 0
//   O = fp16(O·fp16(exp(m_old − m)) + fp16(value_scale·Σ Q(P, weight_scale)·v))
//   y = fp16(O / fp16(l))
//   Q(x, a, c) = saturate(round(fp16(fp16(fp16(x)·fp16(a)) + fp16(c)))), to even, to [−128, 127]
//
// Every step is rounded once, as written, so that all archs and the reference agree bit for bit.
#pragma once

#include <cstdint>

namespace fusion_attention {

// Of int8 query, key and value; all finite.
struct Integer {
  float score_scale = 1;   // deq_scale1
  float weight_scale = 1;  // quant_scale1
  float value_scale = 1;   // deq_scale2
};

// Of an int8 output, whatever the inputs: Q(y, scale, offset). Rows that see nothing are 0, rows of no
// sequence too.
struct OutputScaling {
  const float* scale = nullptr;   // null: the output is not int8
  const float* offset = nullptr;  // null: 0
  std::int64_t channels = 1;      // numbers of each: 1, or N·Dv in the order [N, Dv]

  explicit operator bool() const { return scale != nullptr; }
};

}  // namespace fusion_attention
