#include "api/additive_mask.h"

#include <algorithm>
#include <cstddef>

#include "base/half.h"

namespace fusion_attention {
namespace {

// A byte of bool, uint8 or int8.
float to_float(std::uint8_t value) {
  return value;
}
float to_float(std::int8_t value) {
  return value;
}

template <class T>
void read(const void* data, std::int64_t index, std::int64_t stride, std::int64_t count, float* to) {
  using fusion_attention::to_float;
  const T* from = static_cast<const T*>(data) + index;
  for (std::int64_t i = 0; i < count; ++i) to[i] = to_float(from[i * stride]);
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
  std::int64_t first = 0, count = keys_, local = row;
  if (tile_ != 0) {
    std::fill(to, to + keys_, 0.0f);
    local = row % tile_;
    first = std::min(row - local, keys_);
    count = std::min(tile_, keys_ - first);
  }
  read_floats(mask_, batch * mask_.stride[0] + local * mask_.stride[1], mask_.stride[2], count, to + first);
}

bool AdditiveMask::causal() const {
  std::vector<float> values(static_cast<std::size_t>(keys_));
  const std::int64_t rows = tile_ != 0 ? std::min(tile_, rows_) : rows_;
  for (std::int64_t batch = 0; batch < batches(); ++batch) {
    for (std::int64_t row = 0; row < rows; ++row) {
      read_row(batch, row, values.data());
      const std::int64_t keys = tile_ != 0 ? std::min(tile_, keys_) : keys_;
      for (std::int64_t key = 0; key < keys; ++key)
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
