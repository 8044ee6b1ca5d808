#include "plan/contiguous.h"

#include <new>

#include "plan/rows.h"
#include "problem/contiguous.h"

namespace fusion_attention::plan::detail {

bool contiguous_channels(const TensorView& view) {
  return !view.data || view.channels() <= 1 || view.stride[3] == 1;
}

TensorView contiguous_like(const TensorView& view, std::vector<std::byte>& storage) {
  TensorView copy = contiguous_view(view.dtype, view.shape);
  std::int64_t elements = 1;
  for (const std::int64_t size : view.shape) elements *= size;
  // validate() bounds the product, which may still be more than a vector holds.
  if (static_cast<std::size_t>(elements) > storage.max_size() / sizeof(float)) throw std::bad_alloc();
  storage.resize(static_cast<std::size_t>(elements * size_of(view.dtype)));
  copy.data = storage.data();
  return copy;
}

void copy(const TensorView& from, const TensorView& to) {
  const std::int64_t size = size_of(from.dtype), from_step = from.stride[3] * size,
                     to_step = to.stride[3] * size;
  for (std::int64_t b = 0; b < from.batches(); ++b)
    for (std::int64_t h = 0; h < from.heads(); ++h)
      for (std::int64_t r = 0; r < from.rows(); ++r) {
        const std::byte* source = row_at(from, b, h, r);
        std::byte* target = row_at(to, b, h, r);
        for (std::int64_t c = 0; c < from.channels(); ++c)
          std::memcpy(target + c * to_step, source + c * from_step, static_cast<std::size_t>(size));
      }
}

}  // namespace fusion_attention::plan::detail
