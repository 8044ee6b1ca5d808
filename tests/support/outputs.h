// The bits of everything a run has written.
#pragma once

#include <cstring>
#include <vector>

#include "support/case.h"

namespace fusion_attention::testing {

inline void append_bits(const TensorView& v, std::vector<std::byte>& out) {
  for (std::int64_t b = 0; b < v.batches(); ++b)
    for (std::int64_t h = 0; h < v.heads(); ++h)
      for (std::int64_t r = 0; r < v.rows(); ++r)
        for (std::int64_t c = 0; c < v.channels(); ++c) {
          const std::byte* p = element(v, b, h, r, c);
          out.insert(out.end(), p, p + size_of(v.dtype));
        }
}

inline void append_bits(const float* numbers, std::int64_t count, std::vector<std::byte>& out) {
  const auto* from = reinterpret_cast<const std::byte*>(numbers);
  if (numbers) out.insert(out.end(), from, from + count * static_cast<std::int64_t>(sizeof(float)));
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
