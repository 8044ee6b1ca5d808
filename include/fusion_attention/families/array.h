// A tensor as the caller of an interface family hands it over: his rank, his element type, his strides.
// What its axes mean is said by a layout string beside it; families turn both into TensorView.
#pragma once

#include <array>
#include <cstdint>

namespace fusion_attention {

enum class Element : std::uint8_t {
  float32,
  float16,
  bfloat16,
  boolean,
  uint8,
  int8,
  int32,
  int64,
  float64,
  uint64,
  other,  // never legal; here so that the refusal can come from the place that knows what is allowed
};

const char* name(Element element);      // "float32", "bool", …
std::int64_t size_of(Element element);  // bytes; 0 for other

struct Array {
  static constexpr int kMaxRank = 8;
  static constexpr int kAbsent = -1;

  void* data = nullptr;
  Element element = Element::other;
  int rank = kAbsent;  // a rank above kMaxRank is kept as a number; shape and stride are then empty
  std::array<std::int64_t, kMaxRank> shape{};
  std::array<std::int64_t, kMaxRank> stride{};  // in elements, never negative

  explicit operator bool() const { return rank != kAbsent; }
};

// A contiguous array of `shape`.
Array contiguous_array(void* data, Element element, const std::int64_t* shape, int rank);

}  // namespace fusion_attention
