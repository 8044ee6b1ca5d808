// A mask of which -10000 times the value is added to the scores: read, and turned into the cheapest thing
// that means the same.
#pragma once

#include <cstdint>
#include <vector>

#include "fusion_attention/families/array.h"
#include "fusion_attention/mask.h"

namespace fusion_attention {

// What 1 in a mask adds to a score.
inline constexpr float kMasked = -10000.0f;

// `count` elements from `index` on, `stride` apart, as floats. Every element type that the cell takes.
void read_floats(const Array& array, std::int64_t index, std::int64_t stride, std::int64_t count, float* to);

class AdditiveMask {
 public:
  // mask: [batches, rows, keys].
  explicit AdditiveMask(const Array& mask) : mask_(mask), rows_(mask.shape[1]), keys_(mask.shape[2]) {}

  std::int64_t batches() const { return mask_.shape[0]; }

  // Whether it is 1 after the diagonal and 0 elsewhere: the document's own mask.
  bool causal() const;

  // One byte per (batch, row, key), 1 where the mask is 1; empty when a value is neither 0 nor 1, or when it
  // is 1 on all that a row sees. Elsewhere hiding is the same as adding -10000: exp(-10000) is 0.
  std::vector<std::uint8_t> hidden(const Band& band) const;

  // What is added to the scores of one row.
  void add_row(std::int64_t batch, std::int64_t row, float* scores) const;

 private:
  // The values of one row, `keys_` of them.
  void read_row(std::int64_t batch, std::int64_t row, float* to) const;

  Array mask_;
  std::int64_t rows_, keys_;
};

}  // namespace fusion_attention
