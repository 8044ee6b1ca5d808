// int8 results: Q(y, scale, offset) of integer.h, every step a half.
#pragma once

#include <cstdint>

#include "arch/tile.h"
#include "base/inline.h"
#include "base/math.h"
#include "kernels/kernels.h"

namespace fusion_attention::kernels {

// To the nearest integer, ties to even, saturating; NaN is 0.
FA_INLINE std::int8_t to_int8(float x) {
  return x != x ? std::int8_t{0}
                : static_cast<std::int8_t>(__builtin_rintf(x < -128  ? -128
                                                           : x > 127 ? 127
                                                                     : x));
}

// n ≤ 16 results of one row of head `head` from channel c on.
template <class Arch>
FA_INLINE void store_quantised(const OutputScale& q, std::int64_t head, std::int64_t c, typename Arch::vec y,
                               std::int8_t* to, int n) {
  const auto numbers = [&](const float* from) {
    from += head * q.head;
    return Arch::round_fp16(q.step ? Arch::load(from + c, n) : Arch::set(*from));
  };
  y = Arch::round_fp16(Arch::mul(Arch::round_fp16(y), numbers(q.scale)));
  if (q.offset) y = Arch::round_fp16(Arch::add(y, numbers(q.offset)));
  alignas(64) float lane[arch::kLanes];
  Arch::store(lane, y);
  for (int i = 0; i < n; ++i) to[i] = to_int8(lane[i]);
}

}  // namespace fusion_attention::kernels
