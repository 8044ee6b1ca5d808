// A tensor as the library sees it: somebody else's memory, four logical axes, strides.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace fusion_attention {

enum class Dtype : std::uint8_t { float32, float16, bfloat16 };

enum class Device : std::uint8_t { cpu };

constexpr std::int64_t size_of(Dtype dtype) {
  return dtype == Dtype::float32 ? 4 : 2;
}

const char* name(Dtype dtype);  // "fp32", "fp16", "bf16"

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
