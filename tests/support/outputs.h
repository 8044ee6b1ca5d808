// The bits of everything a run has written; of a NaN that it is one. Which of two a sum hands on is the order
// of the operands of an addition, and that is the compiler's.
#pragma once

#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "support/case.h"

namespace fusion_attention::testing {

inline void append_bits(Dtype dtype, const std::byte* p, std::vector<std::byte>& out) {
  std::array<std::byte, 4> bits{};
  std::memcpy(bits.data(), p, static_cast<std::size_t>(size_of(dtype)));
  if (std::isnan(read_number(dtype, p))) bits.fill(std::byte{0xff});
  out.insert(out.end(), bits.begin(), bits.begin() + size_of(dtype));
}

inline void append_bits(const TensorView& v, std::vector<std::byte>& out) {
  for (std::int64_t b = 0; b < v.batches(); ++b)
    for (std::int64_t h = 0; h < v.heads(); ++h)
      for (std::int64_t r = 0; r < v.rows(); ++r)
        for (std::int64_t c = 0; c < v.channels(); ++c) append_bits(v.dtype, element(v, b, h, r, c), out);
}

inline void append_bits(const float* numbers, std::int64_t count, std::vector<std::byte>& out) {
  for (std::int64_t i = 0; numbers && i < count; ++i)
    append_bits(Dtype::float32, reinterpret_cast<const std::byte*>(numbers + i), out);
}

inline std::vector<std::byte> output_bits(const Problem& p) {
  std::vector<std::byte> bits;
  if (p.pass == Pass::backward) {
    for (const TensorView* v : {&p.query_gradient, &p.key_gradient, &p.value_gradient}) append_bits(*v, bits);
    append_bits(p.bias.gradient, p.bias.elements, bits);
    append_bits(p.sink.gradient, p.query.heads(), bits);
    return bits;
  }
  append_bits(p.output, bits);
  const std::int64_t entries = p.query.batches() * p.query.heads() * p.query.rows() * p.statistics.copies;
  for (const float* s : {p.statistics.max, p.statistics.sum}) append_bits(s, entries, bits);
  return bits;
}

}  // namespace fusion_attention::testing
