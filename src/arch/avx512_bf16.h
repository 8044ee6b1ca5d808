// AVX-512 with BF16: pairs of bf16 by VDPBF16PS. That instruction and VCVTNE2PS2BF16 round to nearest even
// and flush denormals whatever MXCSR says.
#pragma once

#include <immintrin.h>

#include "arch/avx512.h"
#include "arch/registers.h"
#include "arch/tile.h"
#include "base/inline.h"

namespace fusion_attention::arch {

struct ZmmBf16 : Zmm {
  template <class Format>
  FA_INLINE static reg multiply(reg c, reg a, reg b) {
    if constexpr (Format::kUnitElements == 2)
      return _mm512_dpbf16_ps(c, (__m512bh)a, (__m512bh)b);
    else
      return Zmm::multiply<Format>(c, a, b);
  }
};

struct Avx512Bf16 : Avx512 {
  static constexpr const char* kName = "avx512_bf16";

  FA_INLINE static void store_pairs(void* p, vec a, vec b) {
    _mm512_storeu_si512(p, (__m512i)_mm512_cvtne2ps_pbh(b, a));
  }

  template <class Format, bool Accumulate, int Columns, class Hook>
  FA_INLINE static void block(const Operands& o, float* c, Hook&& hook) {
    block_in_zmm<ZmmBf16, Format, Accumulate, Columns>(o, c, hook);
  }
};

}  // namespace fusion_attention::arch
