// Attention on int8 operands, and int8 results: the integer pipeline of the prompt interface.
//
//   S = half(half(score_scale·Σ q·k)·scale) + bias, a half again; hidden pairs take no part
//   per tile of 1024 keys, from key 0 of the sequence on, with m the maximum up to and with the tile:
//     P = half(exp(half(S − m)))   α = half(exp(half(m_before − m)))
//     l = fp32(fp32(l·α) + fp32(Σ P)), Σ P exact
//     O = half(O·α + half(value_scale·Σ Q(P, weight_scale, 0)·v))
//   y = half(O / half(l))
//   Q(x, a, c) = saturate(round(half(half(half(x)·half(a)) + half(c)))), to even, to [−128, 127]
//
// All archs and the reference agree bit for bit, so every rounding is defined. Σ of products is exact. half()
// is to nearest even and saturates at ±65504 (in the Q of an int8 output it becomes infinite). An int32 times
// a scale is rounded to fp32 as a factor and as a product, before half(); O·α + … is rounded to fp32 once,
// before half(). The scales of scores and weights are halves themselves where they meet halves: scale,
// weight_scale. exp is correctly rounded.
//
// A tile in which a row sees no key, or only scores of −∞ (which a bias can make), leaves the row's state. A
// row with a visible score of NaN or +∞ is NaN: 0 in int8. Of the statistics, max is m and sum is l.
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
