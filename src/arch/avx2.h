// AVX2, FMA, F16C: a vec is two ymm registers; a block is sub-tiles of 6 or 5 rows × 2 registers.
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

struct Avx2 {
  static constexpr const char* kName = "avx2";

  struct vec {
    __m256 lo, hi;
  };
  using mask = std::uint16_t;

  FA_INLINE static vec zero() { return set(0.0f); }
  FA_INLINE static vec set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }

  FA_INLINE static vec load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  FA_INLINE static vec load(const bf16* p) { return widen_bf16(Ymm::load16(p)); }
  FA_INLINE static vec load(const f16* p) { return widen_f16(Ymm::load16(p)); }
  FA_INLINE static vec load(const float* p, int n) {
    return {_mm256_maskload_ps(p, first(n)), _mm256_maskload_ps(p + 8, first(n - 8))};
  }
  FA_INLINE static vec load(const bf16* p, int n) { return widen_bf16(load_halves(p, n)); }
  FA_INLINE static vec load(const f16* p, int n) { return widen_f16(load_halves(p, n)); }
  FA_INLINE static vec load(const std::int8_t* p) {
    return widen_int8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  FA_INLINE static vec load(const std::int8_t* p, int n) {
    alignas(16) std::int8_t copy[kLanes] = {};
    for (int i = 0; i < n; ++i) copy[i] = p[i];
    return load(copy);
  }
  FA_INLINE static vec load(const int4_pair* p) { return widen_int8(Ymm::widen_int4(_mm_loadu_si64(p))); }
  FA_INLINE static vec load(const int4_pair* p, int n) {
    alignas(16) std::int8_t copy[kLanes] = {};
    for (int i = 0; i < n; ++i)
      copy[i] = static_cast<std::int8_t>(i % 2 ? high_of(p[i / 2]) : low_of(p[i / 2]));
    return load(copy);
  }

  FA_INLINE static void store(float* p, vec a) {
    _mm256_storeu_ps(p, a.lo);
    _mm256_storeu_ps(p + 8, a.hi);
  }
  FA_INLINE static void store(bf16* p, vec a) { Ymm::store16(p, narrow_bf16(a)); }
  FA_INLINE static void store(f16* p, vec a) { Ymm::store16(p, narrow_f16(a)); }
  FA_INLINE static void store(float* p, vec a, int n) {
    _mm256_maskstore_ps(p, first(n), a.lo);
    _mm256_maskstore_ps(p + 8, first(n - 8), a.hi);
  }
  FA_INLINE static void store(bf16* p, vec a, int n) { store_halves(p, narrow_bf16(a), n); }
  FA_INLINE static void store(f16* p, vec a, int n) { store_halves(p, narrow_f16(a), n); }

  FA_INLINE static void store(std::int8_t* p, vec a) {
    const __m128i words = _mm_packs_epi32(whole(a.lo, 0), whole(a.lo, 1)),
                  more = _mm_packs_epi32(whole(a.hi, 0), whole(a.hi, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(words, more));
  }
  FA_INLINE static vec from_int32(vec a) {
    return {_mm256_cvtepi32_ps(_mm256_castps_si256(a.lo)), _mm256_cvtepi32_ps(_mm256_castps_si256(a.hi))};
  }

  FA_INLINE static vec add(vec a, vec b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
  FA_INLINE static vec sub(vec a, vec b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
  FA_INLINE static vec mul(vec a, vec b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
  FA_INLINE static vec sqrt(vec a) { return {_mm256_sqrt_ps(a.lo), _mm256_sqrt_ps(a.hi)}; }
  FA_INLINE static vec max(vec a, vec b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
  FA_INLINE static vec fma(vec a, vec b, vec c) {
    return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
  }
  FA_INLINE static vec fms(vec a, vec b, vec c) {
    return {_mm256_fmsub_ps(a.lo, b.lo, c.lo), _mm256_fmsub_ps(a.hi, b.hi, c.hi)};
  }
  template <int Degree>
  FA_INLINE static vec exp2(vec x) {
    return {exp2_half<Degree>(x.lo), exp2_half<Degree>(x.hi)};
  }

  FA_INLINE static vec power(vec p, vec k) {
    return {_mm256_mul_ps(p.lo, power_half(k.lo)), _mm256_mul_ps(p.hi, power_half(k.hi))};
  }

  FA_INLINE static mask greater(vec a, vec b) {
    return bits(_mm256_cmp_ps(a.lo, b.lo, _CMP_GT_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_GT_OQ));
  }
  FA_INLINE static mask unordered(vec a) { return bits(unordered_half(a.lo), unordered_half(a.hi)); }
  FA_INLINE static vec select(mask m, vec a, vec b) {
    return {_mm256_blendv_ps(b.lo, a.lo, lanes(m)), _mm256_blendv_ps(b.hi, a.hi, lanes(m >> 8))};
  }
  FA_INLINE static mask bytes(const std::uint8_t* p, int n) {
    alignas(16) std::uint8_t copy[kLanes] = {};
    for (int i = 0; i < n; ++i) copy[i] = p[i];
    const __m128i x = _mm_load_si128(reinterpret_cast<const __m128i*>(copy));
    return static_cast<mask>(~_mm_movemask_epi8(_mm_cmpeq_epi8(x, _mm_setzero_si128())));
  }
  FA_INLINE static float reduce_max(vec a) { return Ymm::reduce_max(_mm256_max_ps(a.lo, a.hi)); }
  FA_INLINE static float reduce_add(vec a) { return Ymm::reduce_add(_mm256_add_ps(a.lo, a.hi)); }

  FA_INLINE static vec sums(const vec (&rows)[kLanes]) {
    __m256 eight[2];
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      __m256 four[2];
#pragma GCC unroll 2
      for (int i = 0; i < 2; ++i) {
        const vec* r = rows + 8 * h + 4 * i;
        const auto half = [&](int k)
                              __attribute__((always_inline)) { return _mm256_add_ps(r[k].lo, r[k].hi); };
        four[i] = _mm256_hadd_ps(_mm256_hadd_ps(half(0), half(1)), _mm256_hadd_ps(half(2), half(3)));
      }
      eight[h] = _mm256_add_ps(_mm256_permute2f128_ps(four[0], four[1], 0x20),
                               _mm256_permute2f128_ps(four[0], four[1], 0x31));
    }
    return {eight[0], eight[1]};
  }

  // The four 8 × 8 quadrants, the two off the diagonal exchanged.
  FA_INLINE static void transpose(vec (&rows)[kLanes]) {
    __m256 upper_left[8], upper_right[8], lower_left[8], lower_right[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      upper_left[i] = rows[i].lo;
      upper_right[i] = rows[i].hi;
      lower_left[i] = rows[i + 8].lo;
      lower_right[i] = rows[i + 8].hi;
    }
    transpose_quadrant(upper_left);
    transpose_quadrant(upper_right);
    transpose_quadrant(lower_left);
    transpose_quadrant(lower_right);
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      rows[i] = {upper_left[i], lower_left[i]};
      rows[i + 8] = {upper_right[i], lower_right[i]};
    }
  }

  FA_INLINE static vec truncate_bf16(vec a) { return {truncate_half(a.lo), truncate_half(a.hi)}; }
  FA_INLINE static vec round_bf16(vec a) { return {upper(rounded_bf16(a.lo)), upper(rounded_bf16(a.hi))}; }
  FA_INLINE static vec round_fp16(vec a) { return widen_f16(narrow_f16(a)); }
  FA_INLINE static vec interleave(vec lo, vec hi) {
    return {interleave_half(lo.lo, hi.lo), interleave_half(lo.hi, hi.hi)};
  }
  FA_INLINE static void store_pairs(void* p, vec a, vec b) {
    store(static_cast<bf16*>(p), a);
    store(static_cast<bf16*>(p) + kLanes, b);
  }

  // The registers that sub_tile works with.
  struct Registers {
    using reg = __m256;
    static constexpr int kFloats = 8;
    static constexpr bool kWeaves = false;

    FA_INLINE static reg load(const float* p) { return _mm256_loadu_ps(p); }
    FA_INLINE static void store(float* p, reg a) { _mm256_storeu_ps(p, a); }
    FA_INLINE static reg zero() { return _mm256_setzero_ps(); }
    FA_INLINE static reg add(reg a, reg b) { return _mm256_add_ps(a, b); }
    FA_INLINE static reg broadcast(const std::byte* p) {
      float unit;
      std::memcpy(&unit, p, 4);
      return _mm256_set1_ps(unit);
    }
    template <class Format>
    FA_INLINE static reg multiply(reg c, reg a, reg b) {
      if constexpr (std::is_same_v<Format, Words>) {
        // VPMADDUBSW would take bytes, but saturates.
        const __m256i product = _mm256_madd_epi16(_mm256_castps_si256(a), _mm256_castps_si256(b));
        return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(c), product));
      } else {
        static_assert(Format::kUnitElements == 1, "bf16 units need a BF16 arch");
        return _mm256_fmadd_ps(a, b, c);
      }
    }
  };

  // Sixteen rows are sub-tiles of 6, 5 and 5 rows × 2 registers: 12 and 10 accumulators, which is what 16
  // registers allow; with 8 the latency of FMA shows (measured 81 % of its peak, against 95).
  template <class Format, bool Accumulate, int Columns, class Hook>
  FA_INLINE static void block(const Operands& o, float* c, Hook&& hook) {
    constexpr int kHalfRows = 16, kTall = 6, kLow = 5;
    const int depth = quads(o), rows = o.rows;
    const int strips = 1 + (rows > 6) + (rows > 11) + (rows > 16) + (rows > 22) + (rows > 27);
    Pace pace(strips * Columns * depth);
    for (int top = 0; top < rows; top += kHalfRows)
      for (int half = 0; half < Columns; ++half) {
        const std::byte* b = o.b + half * (kGroupBytes / 2);
        sub_tile<Registers, Format, Accumulate, kTall, 2>(o.a + top * kLine, b, c + c_offset(top, half),
                                                          depth, pace, hook);
        for (int row = top + kTall; row < top + kHalfRows && row < rows; row += kLow)
          sub_tile<Registers, Format, Accumulate, kLow, 2>(o.a + row * kLine, b, c + c_offset(row, half),
                                                           depth, pace, hook);
      }
  }

  // Four counters to a register, a word in the low half of each 64-bit lane; the high halves are never read.
  FA_INLINE static void philox(const std::uint64_t (&counter)[kLanes], std::uint64_t high, std::uint64_t seed,
                               std::uint32_t threshold, mask (&kept)[4]) {
    kept[0] = kept[1] = kept[2] = kept[3] = 0;
    const __m256i fraction = _mm256_set1_epi64x(Philox::kFraction),
                  below = _mm256_set1_epi64x(static_cast<long long>(threshold) - 1);
    for (int quarter = 0; quarter < 4; ++quarter) {
      __m256i c[4] = {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(counter + 4 * quarter)),
                      {},
                      _mm256_set1_epi64x(static_cast<long long>(high)),
                      {}};
      c[1] = _mm256_srli_epi64(c[0], 32), c[3] = _mm256_srli_epi64(c[2], 32);
      auto key0 = static_cast<std::uint32_t>(seed), key1 = static_cast<std::uint32_t>(seed >> 32);
      for (int round = 0; round < Philox::kRounds; ++round) {
        const __m256i product0 = _mm256_mul_epu32(c[0], _mm256_set1_epi64x(Philox::kMultiply0)),
                      product1 = _mm256_mul_epu32(c[2], _mm256_set1_epi64x(Philox::kMultiply1));
        c[0] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(product1, 32), c[1]),
                                _mm256_set1_epi64x(key0));
        c[1] = product1;
        c[2] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(product0, 32), c[3]),
                                _mm256_set1_epi64x(key1));
        c[3] = product0;
        key0 += Philox::kWeyl0, key1 += Philox::kWeyl1;
      }
      for (int w = 0; w < 4; ++w) {
        const __m256i above = _mm256_cmpgt_epi64(_mm256_and_si256(c[w], fraction), below);
        kept[w] = static_cast<mask>(kept[w] | _mm256_movemask_pd(_mm256_castsi256_pd(above)) << 4 * quarter);
      }
    }
  }

  FA_INLINE static void begin() {}
  FA_INLINE static void end() {}

 private:
  static constexpr int kUpper = static_cast<int>(0xffff0000u);

  FA_INLINE static __m256i first(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  FA_INLINE static __m256 lanes(int m) {
    const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    return _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(m), bit), bit));
  }
  FA_INLINE static mask bits(__m256 lo, __m256 hi) {
    return static_cast<mask>(_mm256_movemask_ps(lo) | _mm256_movemask_ps(hi) << 8);
  }
  FA_INLINE static __m256 unordered_half(__m256 a) {
    const __m256i exponent = _mm256_set1_epi32(0x7f800000);
    return _mm256_castsi256_ps(
        _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_castps_si256(a), exponent), exponent));
  }

  // 2^floor x by its exponent field. The clamp makes that 0 for everything below -127; NaN passes it.
  template <int Degree>
  FA_INLINE static __m256 exp2_half(__m256 x) {
    x = _mm256_max_ps(_mm256_set1_ps(-127.0f), x);
    const __m256 whole = _mm256_floor_ps(x), r = _mm256_sub_ps(x, whole);
    __m256 p = _mm256_set1_ps(kExp2<Degree>[Degree]);
#pragma GCC unroll 8
    for (int k = Degree - 1; k >= 0; --k) p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(kExp2<Degree>[k]));
    return _mm256_mul_ps(p, power_half(whole));
  }
  FA_INLINE static __m256 power_half(__m256 whole) {
    const __m256i biased = _mm256_add_epi32(_mm256_cvttps_epi32(whole), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
  }

  // One half of a as int32, to the nearest, at most 127: what saturates above would become INT_MIN.
  FA_INLINE static __m128i whole(__m256 a, int half) {
    const __m256i x = _mm256_cvtps_epi32(_mm256_min_ps(a, _mm256_set1_ps(127.0f)));
    return half == 0 ? _mm256_castsi256_si128(x) : _mm256_extracti128_si256(x, 1);
  }

  FA_INLINE static void transpose_quadrant(__m256 (&r)[8]) {
    __m256 pair[8], quarter[8];
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
      pair[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
      pair[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4)
#pragma GCC unroll 2
      for (int j = 0; j < 2; ++j) {
        const __m256 a = pair[i + j], b = pair[i + j + 2];
        quarter[i + 2 * j] = _mm256_shuffle_ps(a, b, 0x44);
        quarter[i + 2 * j + 1] = _mm256_shuffle_ps(a, b, 0xee);
      }
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      r[j] = _mm256_permute2f128_ps(quarter[j], quarter[j + 4], 0x20);
      r[j + 4] = _mm256_permute2f128_ps(quarter[j], quarter[j + 4], 0x31);
    }
  }

  FA_INLINE static __m256 upper(__m256i x) {
    return _mm256_castsi256_ps(_mm256_and_si256(x, _mm256_set1_epi32(kUpper)));
  }
  FA_INLINE static __m256i is_nan(__m256 a) { return _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q)); }
  FA_INLINE static __m256i quiet(__m256 a) {
    return _mm256_or_si256(_mm256_castps_si256(a), _mm256_set1_epi32(0x400000));
  }
  FA_INLINE static __m256 truncate_half(__m256 a) {
    return upper(_mm256_blendv_epi8(_mm256_castps_si256(a), quiet(a), is_nan(a)));
  }
  // Nearest even in the upper 16 bits: add half an ulp less one, plus the last bit kept. NaN is made quiet.
  FA_INLINE static __m256i rounded_bf16(__m256 a) {
    const __m256i x = _mm256_castps_si256(a);
    const __m256i last = _mm256_and_si256(_mm256_srli_epi32(x, 16), _mm256_set1_epi32(1));
    const __m256i sum = _mm256_add_epi32(x, _mm256_add_epi32(last, _mm256_set1_epi32(0x7fff)));
    return _mm256_blendv_epi8(sum, quiet(a), is_nan(a));
  }
  FA_INLINE static __m256 interleave_half(__m256 lo, __m256 hi) {
    const __m256i low = _mm256_srli_epi32(_mm256_castps_si256(lo), 16);
    return _mm256_castsi256_ps(_mm256_blend_epi16(low, _mm256_castps_si256(hi), 0xaa));
  }

  FA_INLINE static vec widen_bf16(__m256i a) {
    const __m256i lo = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(a));
    const __m256i hi = _mm256_cvtepu16_epi32(_mm256_extracti128_si256(a, 1));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(lo, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(hi, 16))};
  }
  FA_INLINE static vec widen_int8(__m128i a) {
    const __m256i lo = _mm256_cvtepi8_epi32(a), hi = _mm256_cvtepi8_epi32(_mm_srli_si128(a, 8));
    return {_mm256_cvtepi32_ps(lo), _mm256_cvtepi32_ps(hi)};
  }
  FA_INLINE static vec widen_f16(__m256i a) {
    return {_mm256_cvtph_ps(_mm256_castsi256_si128(a)), _mm256_cvtph_ps(_mm256_extracti128_si256(a, 1))};
  }
  FA_INLINE static __m256i narrow_bf16(vec a) {
    const __m256i lo = _mm256_srli_epi32(rounded_bf16(a.lo), 16),
                  hi = _mm256_srli_epi32(rounded_bf16(a.hi), 16);
    return _mm256_permute4x64_epi64(_mm256_packus_epi32(lo, hi), 0xd8);  // undo packing by 128-bit halves
  }
  FA_INLINE static __m256i narrow_f16(vec a) {
    return _mm256_set_m128i(_mm256_cvtps_ph(a.hi, _MM_FROUND_TO_NEAREST_INT),
                            _mm256_cvtps_ph(a.lo, _MM_FROUND_TO_NEAREST_INT));
  }
  // There is no masked move of 16-bit elements here; tails are rare enough for a copy.
  template <class T>
  FA_INLINE static __m256i load_halves(const T* p, int n) {
    alignas(32) T copy[kLanes] = {};
    for (int i = 0; i < n; ++i) copy[i] = p[i];
    return Ymm::load16(copy);
  }
  template <class T>
  FA_INLINE static void store_halves(T* p, __m256i a, int n) {
    alignas(32) T copy[kLanes];
    Ymm::store16(copy, a);
    for (int i = 0; i < n; ++i) p[i] = copy[i];
  }
};

}  // namespace fusion_attention::arch
