// Where a row of a view lies.
#pragma once

#include <cstddef>

#include "fusion_attention/tensor.h"

namespace fusion_attention::plan {

// Its first channel; null without memory.
inline std::byte* row_at(const TensorView& view, std::int64_t batch, std::int64_t head, std::int64_t row) {
  if (!view.data) return nullptr;
  const std::int64_t elements = batch * view.stride[0] + head * view.stride[1] + row * view.stride[2];
  return static_cast<std::byte*>(view.data) + bytes_of(view.dtype, elements);
}

}  // namespace fusion_attention::plan
