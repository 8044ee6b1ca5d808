#include "plan/contiguous.h"

#include <new>

namespace fusion_attention::plan::detail {

bool contiguous_channels(const TensorView& view) {
  return !view.data || view.channels() <= 1 || view.stride[3] == 1;
}

TensorView contiguous_like(const TensorView& view, std::vector<std::byte>& storage) {
  TensorView copy = view;
  std::int64_t elements = 1;
  for (int axis = 3; axis >= 0; --axis) {
    copy.stride[static_cast<std::size_t>(axis)] = elements;
    elements *= view.shape[static_cast<std::size_t>(axis)];
  }
  // validate() bounds the product, which may still be more than a vector holds.
  if (static_cast<std::size_t>(elements) > storage.max_size() / sizeof(float)) throw std::bad_alloc();
  storage.resize(static_cast<std::size_t>(elements * size_of(view.dtype)));
  copy.data = storage.data();
  return copy;
}

void copy(const TensorView& from, const TensorView& to) {
  const std::int64_t size = size_of(from.dtype);
  const auto at = [&](const TensorView& v, std::int64_t b, std::int64_t h, std::int64_t r, std::int64_t c) {
    return static_cast<std::byte*>(v.data) +
           (b * v.stride[0] + h * v.stride[1] + r * v.stride[2] + c * v.stride[3]) * size;
  };
  for (std::int64_t b = 0; b < from.batches(); ++b)
    for (std::int64_t h = 0; h < from.heads(); ++h)
      for (std::int64_t r = 0; r < from.rows(); ++r)
        for (std::int64_t c = 0; c < from.channels(); ++c)
          std::memcpy(at(to, b, h, r, c), at(from, b, h, r, c), static_cast<std::size_t>(size));
}

}  // namespace fusion_attention::plan::detail
