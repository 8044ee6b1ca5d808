// The floating-point mode kernels run in, for the lifetime of the object: round to nearest even, denormal
// results and operands taken as zero. Unnormalised probabilities underflow all the time, and a denormal costs
// some CPUs a hundred cycles; and AMX flushes anyway. Does nothing on machines other than x86-64.
#pragma once

#include "base/inline.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace fusion_attention::arch {

class FloatMode {
 public:
  FloatMode(const FloatMode&) = delete;
  FloatMode& operator=(const FloatMode&) = delete;

#if defined(__x86_64__)
  FA_INLINE FloatMode() : saved_(_mm_getcsr()) { _mm_setcsr(kMasked | kFlushResults | kZeroOperands); }
  FA_INLINE ~FloatMode() { _mm_setcsr(saved_ | (_mm_getcsr() & kFlags)); }

 private:
  static constexpr unsigned kFlags = 0x3f;  // sticky exception flags: kept, as for any arithmetic
  static constexpr unsigned kMasked = 0x1f80, kFlushResults = 0x8000, kZeroOperands = 0x0040;
  unsigned saved_;
#else
  FA_INLINE FloatMode() {}
  FA_INLINE ~FloatMode() {}
#endif
};

}  // namespace fusion_attention::arch
