// What a family must copy because no strides describe it: arrays whose rows are not contiguous, two halves of
// a head that lie in two tensors, sums that are kept in fp32.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>

#include "fusion_attention/tensor.h"

namespace fusion_attention {

// Of what memory is to hold; throws Error where 64 bits cannot count it.
std::int64_t product(std::initializer_list<std::int64_t> sizes);

// Memory of one call, not cleared.
class Buffer {
 public:
  TensorView contiguous(const TensorView& like);  // of its shape
  float* floats(std::int64_t count);
  std::uint8_t* bytes(std::int64_t count);

 private:
  std::unique_ptr<std::byte[]> memory_;
};

bool is_contiguous(const TensorView& view);

// A contiguous view without memory, of the shape of `like` but for its channels.
TensorView described(const TensorView& like, std::int64_t channels);

// Copies every element; shapes and dtypes are the same. On the pool.
void copy(const TensorView& from, const TensorView& to);

// `a` and `b` one behind the other in every row, in memory of `buffer`; and back, a `b` without memory left
// out.
TensorView joined(const TensorView& a, const TensorView& b, Buffer& buffer);
void split(const TensorView& joined, const TensorView& a, const TensorView& b);

// Rounds once.
void convert(const float* from, std::int64_t count, Dtype dtype, void* to);

}  // namespace fusion_attention
