// Two four-bit integers in a byte, two's complement: the element of even index in the low half.
#pragma once

#include <cstdint>

#include "base/inline.h"

namespace fusion_attention {

struct int4_pair {
  std::uint8_t bits;
};

FA_INLINE int low_of(int4_pair x) {
  return ((x.bits & 15) ^ 8) - 8;
}
FA_INLINE int high_of(int4_pair x) {
  return ((x.bits >> 4) ^ 8) - 8;
}

}  // namespace fusion_attention
