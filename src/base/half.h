// The two 16-bit floating-point formats, as bits, and their exact conversions.
#pragma once

#include <bit>
#include <cstdint>

#include "base/inline.h"

namespace fusion_attention {

struct bf16 {
  std::uint16_t bits;
};
struct f16 {
  std::uint16_t bits;
};

FA_INLINE float to_float(float x) {
  return x;
}
FA_INLINE float to_float(bf16 x) {
  return std::bit_cast<float>(std::uint32_t{x.bits} << 16);
}
FA_INLINE float to_float(f16 x) {
  const std::uint32_t sign = std::uint32_t{x.bits & 0x8000u} << 16;
  const std::uint32_t exponent = (x.bits >> 10) & 31u, fraction = x.bits & 1023u;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | (fraction << 13));
  if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (fraction << 13));
  const float magnitude = static_cast<float>(fraction) * 0x1p-24f;  // zero and denormals, exact
  return sign ? -magnitude : magnitude;
}

// Round to nearest even; NaN stays NaN, overflow becomes infinity.
template <class T>
T from_float(float x);

template <>
FA_INLINE float from_float<float>(float x) {
  return x;
}
template <>
FA_INLINE bf16 from_float<bf16>(float x) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<std::uint16_t>((bits >> 16) | 0x40u)};
  return {static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}
template <>
FA_INLINE f16 from_float<f16>(float x) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x), magnitude = bits & 0x7fffffffu;
  const std::uint16_t sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000u);
  if (magnitude > 0x7f800000u) return {static_cast<std::uint16_t>(sign | 0x7e00u)};
  if (magnitude >= 0x477ff000u) return {static_cast<std::uint16_t>(sign | 0x7c00u)};  // rounds past 65504
  if (magnitude >= 0x38800000u) {                                                     // normal half
    const std::uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u) - (112u << 23);
    return {static_cast<std::uint16_t>(sign | (rounded >> 13))};
  }
  // A denormal half is a multiple of 2^-24; adding 1.5·2^-1 (ulp 2^-24) lets the FPU round it.
  const float sum = std::bit_cast<float>(magnitude) + 0.75f;
  return {static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(sum) - 0x3f400000u))};
}

}  // namespace fusion_attention
