// Attention over disjoint sets of keys, computed apart: joined as if one call had seen them all.
#pragma once

#include <cstdint>

#include "fusion_attention/tensor.h"

namespace fusion_attention {

// Contiguous, as a forward leaves them: output [B, N, S, D], the statistics [B, S, N]
// (StatisticsOrder::row_major).
struct RowResults {
  void* output = nullptr;
  float *max = nullptr, *sum = nullptr;
};

// into = what a softmax over the keys of both gives. Rounds the outputs once more. output: for dtype and
// shape.
void join(const TensorView& output, const RowResults& into, const RowResults& from);

// into += from, `count` numbers: the gradients of what both read.
void add(Dtype dtype, std::int64_t count, void* into, const void* from);

}  // namespace fusion_attention
