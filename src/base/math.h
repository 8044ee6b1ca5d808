// Integer helpers that are safe in ISA files: always inlined, no std:: templates.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/inline.h"

namespace fusion_attention {

[[gnu::always_inline]] constexpr inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}
[[gnu::always_inline]] constexpr inline std::int64_t round_up(std::int64_t a, std::int64_t b) {
  return ceil_div(a, b) * b;
}
[[gnu::always_inline]] constexpr inline std::int64_t round_down(std::int64_t a, std::int64_t b) {
  return a / b * b;
}
[[gnu::always_inline]] constexpr inline std::int64_t lesser(std::int64_t a, std::int64_t b) {
  return a < b ? a : b;
}
[[gnu::always_inline]] constexpr inline std::int64_t greater(std::int64_t a, std::int64_t b) {
  return a > b ? a : b;
}
[[gnu::always_inline]] constexpr inline std::int64_t clamp(std::int64_t x, std::int64_t low,
                                                           std::int64_t high) {
  return x < low ? low : x > high ? high : x;
}

}  // namespace fusion_attention
