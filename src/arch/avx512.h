// AVX-512 F, BW, DQ, VL: a vec is one zmm register; a block is four sub-tiles of 8 rows × 2 registers.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "arch/philox.h"
#include "arch/registers.h"
#include "arch/scalar.h"  // kExp2
#include "arch/tile.h"
#include "arch/ymm.h"
#include "base/half.h"
#include "base/inline.h"
#include "base/int4.h"

namespace fusion_attention::arch {

// The registers that sub_tile works with.
struct Zmm {
  using reg = __m512;
  static constexpr int kFloats = 16;
  static constexpr bool kWeaves = true;  // 13 registers beside accumulators, two lines of B and one of A

  FA_INLINE static reg load(const float* p) { return _mm512_loadu_ps(p); }
  FA_INLINE static void store(float* p, reg a) { _mm512_storeu_ps(p, a); }
  FA_INLINE static reg zero() { return _mm512_setzero_ps(); }
  FA_INLINE static reg add(reg a, reg b) { return _mm512_add_ps(a, b); }
  FA_INLINE static reg broadcast(const std::byte* p) {
    float unit;
    std::memcpy(&unit, p, 4);
    reg a = _mm512_set1_ps(unit);
    asm("" : "+v"(a));  // one load per row: g++ otherwise folds it into every multiplication that reads it
    return a;
  }
  template <class Format>
  FA_INLINE static reg multiply(reg c, reg a, reg b) {
    if constexpr (std::is_same_v<Format, RaisedBytes>) {
      asm("vpdpbusd %2, %1, %0" : "+v"(c) : "v"(a), "v"(b));  // as text: has_vnni() is asked at run time
      return c;
    } else if constexpr (std::is_same_v<Format, Words>) {
      const __m512i product = _mm512_madd_epi16(_mm512_castps_si512(a), _mm512_castps_si512(b));
      return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(c), product));
    } else {
      static_assert(Format::kUnitElements == 1, "bf16 units need Avx512Bf16");
      return _mm512_fmadd_ps(a, b, c);
    }
  }
};

// Sub-tiles of 8 rows × 2 registers, or 16 × 1: 16 accumulators, where latency allows 8 (FMA) to 12
// (VDPBF16PS).
template <class Registers, class Format, bool Accumulate, int Columns, class Hook>
FA_INLINE void block_in_zmm(const Operands& o, float* c, Hook& hook) {
  constexpr int kRows = 16 / Columns;
  const int strips = (o.rows + kRows - 1) / kRows, depth = quads(o);
  Pace pace(strips * depth);
  for (int row = 0; row < strips * kRows; row += kRows)
    sub_tile<Registers, Format, Accumulate, kRows, Columns>(o.a + row * kLine, o.b, c + c_offset(row, 0),
                                                            depth, pace, hook);
}

struct Avx512 {
  static constexpr const char* kName = "avx512";

  using vec = __m512;
  using mask = std::uint16_t;

  FA_INLINE static vec zero() { return _mm512_setzero_ps(); }
  FA_INLINE static vec set(float x) { return _mm512_set1_ps(x); }

  FA_INLINE static vec load(const float* p) { return _mm512_loadu_ps(p); }
  FA_INLINE static vec load(const bf16* p) { return widen_bf16(Ymm::load16(p)); }
  FA_INLINE static vec load(const f16* p) { return _mm512_cvtph_ps(Ymm::load16(p)); }
  FA_INLINE static vec load(const float* p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
  FA_INLINE static vec load(const bf16* p, int n) {
    return widen_bf16(_mm256_maskz_loadu_epi16(first(n), p));
  }
  FA_INLINE static vec load(const f16* p, int n) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first(n), p));
  }
  FA_INLINE static vec load(const std::int8_t* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
  FA_INLINE static vec load(const std::int8_t* p, int n) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(first(n), p)));
  }
  FA_INLINE static vec load(const int4_pair* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(Ymm::widen_int4(_mm_loadu_si64(p))));
  }
  FA_INLINE static vec load(const int4_pair* p, int n) {
    const __m128i pairs = _mm_maskz_loadu_epi8(first((n + 1) / 2), p);
    return _mm512_cvtepi32_ps(_mm512_maskz_cvtepi8_epi32(first(n), Ymm::widen_int4(pairs)));
  }

  FA_INLINE static void store(float* p, vec a) { _mm512_storeu_ps(p, a); }
  FA_INLINE static void store(bf16* p, vec a) { Ymm::store16(p, narrow_bf16(a)); }
  FA_INLINE static void store(f16* p, vec a) { Ymm::store16(p, narrow_f16(a)); }
  FA_INLINE static void store(float* p, vec a, int n) { _mm512_mask_storeu_ps(p, first(n), a); }
  FA_INLINE static void store(bf16* p, vec a, int n) {
    _mm256_mask_storeu_epi16(p, first(n), narrow_bf16(a));
  }
  FA_INLINE static void store(f16* p, vec a, int n) { _mm256_mask_storeu_epi16(p, first(n), narrow_f16(a)); }

  // At most 127: what saturates above would become INT_MIN.
  FA_INLINE static void store(std::int8_t* p, vec a) {
    const __m512i whole = _mm512_cvtps_epi32(_mm512_min_ps(a, set(127.0f)));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(whole));
  }
  FA_INLINE static vec from_int32(vec a) { return _mm512_cvtepi32_ps(_mm512_castps_si512(a)); }

  FA_INLINE static vec add(vec a, vec b) { return _mm512_add_ps(a, b); }
  FA_INLINE static vec sub(vec a, vec b) { return _mm512_sub_ps(a, b); }
  FA_INLINE static vec mul(vec a, vec b) { return _mm512_mul_ps(a, b); }
  FA_INLINE static vec sqrt(vec a) { return _mm512_sqrt_ps(a); }
  FA_INLINE static vec max(vec a, vec b) { return _mm512_max_ps(a, b); }
  FA_INLINE static vec fma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
  FA_INLINE static vec fms(vec a, vec b, vec c) { return _mm512_fmsub_ps(a, b, c); }

  FA_INLINE static vec fraction(vec x) {
    constexpr int kFloor = 0x09;  // whole units, towards −inf, no precision exception
    return _mm512_reduce_ps(x, kFloor);
  }
  // Takes every x, −inf and NaN included.
  FA_INLINE static vec scale(vec p, vec x) { return _mm512_scalef_ps(p, x); }
  FA_INLINE static vec power(vec p, vec k) { return scale(p, k); }
  template <int Degree>
  FA_INLINE static vec exp2(vec x) {
    const vec r = fraction(x);
    vec p = set(kExp2<Degree>[Degree]);
#pragma GCC unroll 8
    for (int k = Degree - 1; k >= 0; --k) p = fma(p, r, set(kExp2<Degree>[k]));
    return scale(p, x);
  }

  FA_INLINE static mask greater(vec a, vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
  FA_INLINE static mask unordered(vec a) { return _mm512_fpclass_ps_mask(a, kNan | kInfinite); }
  FA_INLINE static vec select(mask m, vec a, vec b) { return _mm512_mask_blend_ps(m, b, a); }
  FA_INLINE static mask bytes(const std::uint8_t* p, int n) {
    const __m128i x = _mm_maskz_loadu_epi8(first(n), p);
    return _mm_test_epi8_mask(x, x);
  }
  FA_INLINE static float reduce_max(vec a) { return Ymm::reduce_max(_mm256_max_ps(low(a), high(a))); }
  FA_INLINE static float reduce_add(vec a) { return Ymm::reduce_add(_mm256_add_ps(low(a), high(a))); }

  // Two by two: lanes of pairs of vecs, of fours of them, then quarters of 128 bits likewise. 30 shuffles,
  // where a transpose takes 64.
  FA_INLINE static vec sums(const vec (&rows)[kLanes]) {
    vec pair[8], four[4];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i)
      pair[i] = add(_mm512_unpacklo_ps(rows[2 * i], rows[2 * i + 1]),
                    _mm512_unpackhi_ps(rows[2 * i], rows[2 * i + 1]));
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const __m512d a = _mm512_castps_pd(pair[2 * i]), b = _mm512_castps_pd(pair[2 * i + 1]);
      four[i] = add(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
    }
    return quarters(quarters(four[0], four[1]), quarters(four[2], four[3]));
  }

  // 4 × 4 transposes inside the 128-bit quarters, then a 4 × 4 transpose of quarters.
  FA_INLINE static void transpose(vec (&rows)[kLanes]) {
    vec pair[kLanes], quarter[kLanes];
#pragma GCC unroll 8
    for (int i = 0; i < kLanes; i += 2) {
      pair[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
      pair[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < kLanes; i += 4)
#pragma GCC unroll 2
      for (int j = 0; j < 2; ++j) {
        const __m512d a = _mm512_castps_pd(pair[i + j]), b = _mm512_castps_pd(pair[i + j + 2]);
        quarter[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
        quarter[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
      }
    constexpr int kEven = 0x88, kOdd = 0xdd;
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const vec a = quarter[j], b = quarter[j + 4], c = quarter[j + 8], d = quarter[j + 12];
      const vec ab02 = _mm512_shuffle_f32x4(a, b, kEven), cd02 = _mm512_shuffle_f32x4(c, d, kEven);
      const vec ab13 = _mm512_shuffle_f32x4(a, b, kOdd), cd13 = _mm512_shuffle_f32x4(c, d, kOdd);
      rows[j] = _mm512_shuffle_f32x4(ab02, cd02, kEven);
      rows[j + 4] = _mm512_shuffle_f32x4(ab13, cd13, kEven);
      rows[j + 8] = _mm512_shuffle_f32x4(ab02, cd02, kOdd);
      rows[j + 12] = _mm512_shuffle_f32x4(ab13, cd13, kOdd);
    }
  }

  FA_INLINE static vec truncate_bf16(vec a) {
    const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000u)),
                  quiet = _mm512_set1_epi32(0x400000);
    const __m512i x = _mm512_and_si512(_mm512_castps_si512(a), upper);
    return _mm512_castsi512_ps(_mm512_mask_or_epi32(x, _mm512_fpclass_ps_mask(a, kNan), x, quiet));
  }
  FA_INLINE static vec round_bf16(vec a) {
    const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
    return _mm512_castsi512_ps(_mm512_and_si512(rounded_bf16(a), upper));
  }
  // A mask of the last bit kept: an operation less than shifting it down.
  FA_INLINE static vec round_bf16_number(vec a) {
    const __m512i x = _mm512_castps_si512(a), one = _mm512_set1_epi32(1);
    const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
    const __m512i sum = _mm512_add_epi32(x, _mm512_set1_epi32(0x7fff));
    const __mmask16 odd = _mm512_test_epi32_mask(x, _mm512_set1_epi32(0x10000));
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_mask_add_epi32(sum, odd, sum, one), upper));
  }
  FA_INLINE static vec round_fp16(vec a) { return _mm512_cvtph_ps(narrow_f16(a)); }
  FA_INLINE static vec interleave(vec lo, vec hi) {
    constexpr __mmask32 kUpper = 0xaaaaaaaau;
    const __m512i low = _mm512_srli_epi32(_mm512_castps_si512(lo), 16);
    return _mm512_castsi512_ps(_mm512_mask_blend_epi16(kUpper, low, _mm512_castps_si512(hi)));
  }
  FA_INLINE static void store_pairs(void* p, vec a, vec b) {
    store(static_cast<bf16*>(p), a);
    store(static_cast<bf16*>(p) + kLanes, b);
  }

  template <class Format, bool Accumulate, int Columns, class Hook>
  FA_INLINE static void block(const Operands& o, float* c, Hook&& hook) {
    block_in_zmm<Zmm, Format, Accumulate, Columns>(o, c, hook);
  }

  // Eight counters to a register, a word in the low half of each 64-bit lane; the high halves are never read.
  FA_INLINE static void philox(const std::uint64_t (&counter)[kLanes], std::uint64_t high, std::uint64_t seed,
                               std::uint32_t threshold, mask (&kept)[4]) {
    const __m512i multiply0 = _mm512_set1_epi64(Philox::kMultiply0),
                  multiply1 = _mm512_set1_epi64(Philox::kMultiply1);
    __m512i c[4][2];
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      c[0][h] = _mm512_loadu_si512(counter + 8 * h);
      c[1][h] = _mm512_srli_epi64(c[0][h], 32);
      c[2][h] = _mm512_set1_epi64(static_cast<long long>(high));
      c[3][h] = _mm512_srli_epi64(c[2][h], 32);
    }
    auto key0 = static_cast<std::uint32_t>(seed), key1 = static_cast<std::uint32_t>(seed >> 32);
#pragma GCC unroll 10
    for (int round = 0; round < Philox::kRounds; ++round) {
      const __m512i k0 = _mm512_set1_epi64(key0), k1 = _mm512_set1_epi64(key1);
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h) {
        const __m512i product0 = _mm512_mul_epu32(c[0][h], multiply0),
                      product1 = _mm512_mul_epu32(c[2][h], multiply1);
        constexpr int kXor = 0x96;  // of three
        c[0][h] = _mm512_ternarylogic_epi64(_mm512_srli_epi64(product1, 32), c[1][h], k0, kXor);
        c[1][h] = product1;
        c[2][h] = _mm512_ternarylogic_epi64(_mm512_srli_epi64(product0, 32), c[3][h], k1, kXor);
        c[3][h] = product0;
      }
      key0 += Philox::kWeyl0, key1 += Philox::kWeyl1;
    }
    const __m512i fraction = _mm512_set1_epi64(Philox::kFraction), least = _mm512_set1_epi64(threshold);
#pragma GCC unroll 4
    for (int w = 0; w < 4; ++w) {
      const auto half = [&](int h) __attribute__((always_inline)) -> unsigned {
        return _mm512_cmpge_epu64_mask(_mm512_and_si512(c[w][h], fraction), least);
      };
      kept[w] = static_cast<mask>(half(0) | half(1) << 8);
    }
  }

  FA_INLINE static void begin() {}
  FA_INLINE static void end() {}

 private:
  static constexpr int kNan = 0x81, kInfinite = 0x18;  // classes of vfpclassps

  // Sums of neighbouring quarters: those of a, then those of b.
  FA_INLINE static vec quarters(vec a, vec b) {
    constexpr int kEven = 0x88, kOdd = 0xdd;
    return add(_mm512_shuffle_f32x4(a, b, kEven), _mm512_shuffle_f32x4(a, b, kOdd));
  }

  FA_INLINE static mask first(int n) { return static_cast<mask>((1u << n) - 1); }
  FA_INLINE static __m256 low(vec a) { return _mm512_castps512_ps256(a); }
  FA_INLINE static __m256 high(vec a) { return _mm512_extractf32x8_ps(a, 1); }

  FA_INLINE static vec widen_bf16(__m256i a) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(a), 16));
  }
  // Nearest even in the upper 16 bits: add half an ulp less one, plus the last bit kept. NaN is made quiet.
  FA_INLINE static __m512i rounded_bf16(vec a) {
    const __m512i x = _mm512_castps_si512(a);
    const __m512i last = _mm512_and_si512(_mm512_srli_epi32(x, 16), _mm512_set1_epi32(1));
    const __m512i sum = _mm512_add_epi32(x, _mm512_add_epi32(last, _mm512_set1_epi32(0x7fff)));
    return _mm512_mask_or_epi32(sum, _mm512_fpclass_ps_mask(a, kNan), x, _mm512_set1_epi32(0x400000));
  }
  FA_INLINE static __m256i narrow_bf16(vec a) {
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded_bf16(a), 16));
  }
  FA_INLINE static __m256i narrow_f16(vec a) { return _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT); }
};

}  // namespace fusion_attention::arch
