// Views without memory yet.
#pragma once

#include <algorithm>
#include <array>

#include "problem/check.h"

namespace fusion_attention {

// Channels innermost, heads outside of rows. An empty axis leaves the strides of the others distinct. Throws
// Error on sizes whose product no address space holds.
inline TensorView contiguous_view(Dtype dtype, const std::array<std::int64_t, 4>& shape) {
  TensorView view{.dtype = dtype, .shape = shape};
  std::int64_t stride = 1;
  for (std::size_t axis = 4; axis-- > 0;) {
    view.stride[axis] = stride;
    if (__builtin_mul_overflow(stride, std::max<std::int64_t>(shape[axis], 1), &stride))
      refuse("sizes", "a product past 2^63", "tensors that fit an address space");
  }
  return view;
}

}  // namespace fusion_attention
