// The block verb for machines whose C lives in vector registers: C is cut into sub-tiles of Rows rows × Span
// registers; A is broadcast unit by unit, B is read line by line.
#pragma once

#include <cstddef>
#include <type_traits>

#include "arch/tile.h"
#include "base/inline.h"

namespace fusion_attention::arch {

inline constexpr int kQuad = 4;  // units per unrolled step; rounding the depth up to it multiplies zeros

FA_INLINE int quads(const Operands& o) {
  return (o.units + kQuad - 1) / kQuad;
}

// Spreads the 32 calls of a hook evenly over `steps` calls of step(). One call site, so that a long hook is
// inlined once.
class Pace {
 public:
  FA_INLINE explicit Pace(int steps) : steps_(steps) {}

  template <class Hook>
  FA_INLINE void step(Hook& hook) {
    if constexpr (!std::is_same_v<std::remove_const_t<Hook>, NoHook>)
      for (credit_ += kBlock; credit_ >= steps_; credit_ -= steps_) hook(row_++);
  }

 private:
  int steps_, credit_ = 0, row_ = 0;
};

// One sub-tile, resident over the whole depth. a: its first row. b, c: its first column, of which c in a C
// block that continues for Rows rows without a change of half. Registers says what a register is: reg,
// kFloats, load(const float*), store(float*, reg), zero(), broadcast(const std::byte*) of one unit, and
// multiply<Format>(c, a, b) = c + a·b.
template <class Registers, class Format, bool Accumulate, int Rows, int Span, class Hook>
FA_INLINE void sub_tile(const std::byte* a, const std::byte* b, float* c, int quads, Pace& pace, Hook& hook) {
  static_assert(Format::kPlanes == 1, "several planes are for tile units");
  using reg = typename Registers::reg;
  constexpr int kPerHalf = kLanes / Registers::kFloats;
  reg sum[Rows][Span];
#pragma GCC unroll 16
  for (int row = 0; row < Rows; ++row)
#pragma GCC unroll 4
    for (int r = 0; r < Span; ++r) {
      float* at = c + c_offset(row, r / kPerHalf) + r % kPerHalf * Registers::kFloats;
      sum[row][r] = Accumulate ? Registers::load(at) : Registers::zero();
    }

  for (int left = quads; left > 0; left -= kGroupUnits / kQuad) {
    const int here = left < kGroupUnits / kQuad ? left : kGroupUnits / kQuad;
    for (int quad = 0; quad < here; ++quad) {
#pragma GCC unroll 4
      for (int unit = quad * kQuad; unit < quad * kQuad + kQuad; ++unit) {
        reg line[Span];
#pragma GCC unroll 4
        for (int r = 0; r < Span; ++r) {
          const std::size_t half = r / kPerHalf * (kGroupBytes / 2) + r % kPerHalf * (kLine / kPerHalf);
          line[r] = Registers::load(reinterpret_cast<const float*>(b + half + unit * kLine));
        }
#pragma GCC unroll 16
        for (int row = 0; row < Rows; ++row) {
          const reg x = Registers::broadcast(a + row * kLine + unit * 4);
#pragma GCC unroll 4
          for (int r = 0; r < Span; ++r)
            sum[row][r] = Registers::template multiply<Format>(sum[row][r], x, line[r]);
        }
      }
      pace.step(hook);
    }
    a += kGroupBytes;
    b += kGroupBytes;
  }
#pragma GCC unroll 16
  for (int row = 0; row < Rows; ++row)
#pragma GCC unroll 4
    for (int r = 0; r < Span; ++r)
      Registers::store(c + c_offset(row, r / kPerHalf) + r % kPerHalf * Registers::kFloats, sum[row][r]);
}

}  // namespace fusion_attention::arch
