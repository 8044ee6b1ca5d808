// A tensor as the library sees it: somebody else's memory, four logical axes, strides.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace fusion_attention {

// int8: operands of the integer pipeline, its output, stored keys and values. int4: stored keys and values
// only, two's complement, two in a byte, the even channel in the low half.
enum class Dtype : std::uint8_t { float32, float16, bfloat16, int8, int4 };

enum class Device : std::uint8_t { cpu };

constexpr std::int64_t bits_of(Dtype dtype) {
  constexpr std::int64_t kBits[] = {32, 16, 16, 8, 4};
  return kBits[static_cast<int>(dtype)];
}

// Bytes of an element; 0 for int4, whose places are bytes_of an even number of elements.
constexpr std::int64_t size_of(Dtype dtype) {
  return bits_of(dtype) / 8;
}
constexpr std::int64_t bytes_of(Dtype dtype, std::int64_t elements) {
  return elements * bits_of(dtype) / 8;
}

constexpr bool is_integer(Dtype dtype) {
  return dtype == Dtype::int8 || dtype == Dtype::int4;
}

const char* name(Dtype dtype);  // "fp32", "fp16", "bf16", "int8", "int4"

// Logical axes are always [batch, head, row, channel]; what the caller's layout string says is
// settled before this struct exists. Strides count elements, may be 0 (broadcast) and are never
// negative. Data need only be aligned to its element.
struct TensorView {
  void* data = nullptr;  // may be null for a problem that is only described
  Dtype dtype = Dtype::float32;
  std::array<std::int64_t, 4> shape{};
  std::array<std::int64_t, 4> stride{};
  Device device = Device::cpu;

  std::int64_t batches() const { return shape[0]; }
  std::int64_t heads() const { return shape[1]; }
  std::int64_t rows() const { return shape[2]; }
  std::int64_t channels() const { return shape[3]; }
};

}  // namespace fusion_attention
