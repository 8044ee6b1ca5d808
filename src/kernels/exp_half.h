// exp of halves, correctly rounded to halves: a function of 2¹⁵ arguments, so that nothing is left to an
// arch.
//
// d = k·ln 2 + r with |r| ≤ ln 2 / 2 and k·ln 2 in two parts, the first of which is exact; exp d = 2^k·(1 +
// t), t = r + r²·q(r). The one rounding that matters is that of 1 + t, half an ulp of fp32: no exp of a half
// lies that near to the middle between two halves without the rounded sum being on the right side of it, or
// on the tie that goes the right way. The test goes over every argument.
#pragma once

#include "base/inline.h"

namespace fusion_attention::kernels {

// d: a half ≤ 0, or −∞. Below −17.33 the result is 0.
template <class Arch>
FA_INLINE typename Arch::vec exp_half(typename Arch::vec d) {
  constexpr float kLeast = -20.0f, kLog2E = 1.44269504f, kWhole = 0x1.8p23f;  // plus and minus it: ulp 1
  constexpr float kLn2High = 0x1.62e4p-1f, kLn2Low = 1.42860682e-6f;  // 15 bits: times k ≤ 29 it is exact
  constexpr float kQ[] = {0.5f, 0.16666518f, 0.041666206f, 0.00836895f, 0.0013950582f};  // 3e-9 of t
  const auto x = Arch::max(Arch::set(kLeast), d);
  const auto k = Arch::sub(Arch::fma(x, Arch::set(kLog2E), Arch::set(kWhole)), Arch::set(kWhole));
  auto r = Arch::fma(k, Arch::set(-kLn2High), x);
  r = Arch::fma(k, Arch::set(-kLn2Low), r);
  auto q = Arch::set(kQ[4]);
  for (int i = 3; i >= 0; --i) q = Arch::fma(q, r, Arch::set(kQ[i]));
  const auto t = Arch::fma(Arch::mul(r, r), q, r);
  return Arch::round_fp16(Arch::power(Arch::add(Arch::set(1.0f), t), k));
}

}  // namespace fusion_attention::kernels
