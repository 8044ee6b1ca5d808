#include "api/additive_mask.h"

#include <algorithm>
#include <cstddef>
#include <type_traits>

#include "base/half.h"

namespace fusion_attention {
namespace {

template <class T>
void read(const void* data, std::int64_t index, std::int64_t stride, std::int64_t count, float* to) {
  const T* from = static_cast<const T*>(data) + index;
  for (std::int64_t i = 0; i < count; ++i) {
    if constexpr (std::is_integral_v<T>) {
      to[i] = from[i * stride];
    } else {
      to[i] = to_float(from[i * stride]);
    }
  }
}

}  // namespace

void read_floats(const Array& array, std::int64_t index, std::int64_t stride, std::int64_t count, float* to) {
  switch (array.element) {
    case Element::float32:
      return read<float>(array.data, index, stride, count, to);
    case Element::float16:
      return read<f16>(array.data, index, stride, count, to);
    case Element::bfloat16:
      return read<bf16>(array.data, index, stride, count, to);
    case Element::int8:
      return read<std::int8_t>(array.data, index, stride, count, to);
    default:
      return read<std::uint8_t>(array.data, index, stride, count, to);
  }
}

void AdditiveMask::read_row(std::int64_t batch, std::int64_t row, float* to) const {
  read_floats(mask_, batch * mask_.stride[0] + row * mask_.stride[1], mask_.stride[2], keys_, to);
}

bool AdditiveMask::causal() const {
  std::vector<float> values(static_cast<std::size_t>(keys_));
  for (std::int64_t batch = 0; batch < batches(); ++batch) {
    for (std::int64_t row = 0; row < rows_; ++row) {
      read_row(batch, row, values.data());
      for (std::int64_t key = 0; key < keys_; ++key)
        if (values[static_cast<std::size_t>(key)] != (key > row ? 1.0f : 0.0f)) return false;
    }
  }
  return true;
}

std::vector<std::uint8_t> AdditiveMask::hidden(const Band& band) const {
  std::vector<float> values(static_cast<std::size_t>(keys_));
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(batches() * rows_ * keys_));
  std::uint8_t* byte = bytes.data();
  for (std::int64_t batch = 0; batch < batches(); ++batch) {
    for (std::int64_t row = 0; row < rows_; ++row, byte += keys_) {
      read_row(batch, row, values.data());
      for (std::int64_t key = 0; key < keys_; ++key) {
        const float value = values[static_cast<std::size_t>(key)];
        if (value != 0.0f && value != 1.0f) return {};
        byte[key] = value != 0.0f;
      }
      const Interval seen = band.row(row, keys_);
      if (!seen.empty() && std::find(byte + seen.begin, byte + seen.end, 0) == byte + seen.end) return {};
    }
  }
  return bytes;
}

void AdditiveMask::add_row(std::int64_t batch, std::int64_t row, float* scores) const {
  std::vector<float> values(static_cast<std::size_t>(keys_));
  read_row(batch, row, values.data());
  for (std::int64_t key = 0; key < keys_; ++key)
    scores[key] += kMasked * values[static_cast<std::size_t>(key)];
}

}  // namespace fusion_attention
