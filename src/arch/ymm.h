// What the AVX2 and the AVX-512 arch share: eight lanes.
#pragma once

#include <immintrin.h>

#include "base/inline.h"

namespace fusion_attention::arch {

struct Ymm {
  FA_INLINE static __m256i load16(const void* p) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(p));
  }
  FA_INLINE static void store16(void* p, __m256i a) { _mm256_storeu_si256(static_cast<__m256i*>(p), a); }

  // Sixteen int4 in the lower eight bytes, as sixteen int8.
  FA_INLINE static __m128i widen_int4(__m128i pairs) {
    const __m128i nibble = _mm_set1_epi8(15), sign = _mm_set1_epi8(8);
    const __m128i even = _mm_and_si128(pairs, nibble),
                  odd = _mm_and_si128(_mm_srli_epi16(pairs, 4), nibble);
    return _mm_sub_epi8(_mm_xor_si128(_mm_unpacklo_epi8(even, odd), sign), sign);
  }

  FA_INLINE static float reduce_max(__m256 a) {
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
  }
  FA_INLINE static float reduce_add(__m256 a) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
  }
};

}  // namespace fusion_attention::arch
