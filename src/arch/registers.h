// The block verb for machines whose C lives in vector registers. C is cut into sub-tiles of Rows rows × Span
// registers that stay resident over the whole depth: A is broadcast unit by unit, B is read line by line.
#pragma once

#include <cstddef>
#include <type_traits>

#include "arch/tile.h"
#include "base/inline.h"

namespace fusion_attention::arch {

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

// Registers says what a register is: reg, kFloats, load(const float*), store(float*, reg), zero(),
// broadcast(const std::byte*) of one unit, and multiply<Format>(c, a, b) = c + a·b.
template <class Registers, class Format, bool Accumulate, int Columns, int Rows, int Span, class Hook>
FA_INLINE void block_in_registers(const Operands& o, float* c, Hook& hook) {
  static_assert(Format::kPlanes == 1, "several planes are for tile units");
  using reg = typename Registers::reg;
  constexpr int kQuad = 4;  // units per unrolled step; rounding the depth up to it multiplies zeros
  constexpr int kPerHalf = kLanes / Registers::kFloats;
  constexpr int kSpans = Columns * kPerHalf / Span;
  constexpr auto b_offset = [](int r) {
    return r / kPerHalf * (kGroupBytes / 2) + r % kPerHalf * (kLine / kPerHalf);
  };
  const int strips = (o.rows + Rows - 1) / Rows, quads = (o.units + kQuad - 1) / kQuad;
  Pace pace(strips * kSpans * quads);

  for (int strip = 0; strip < strips; ++strip)
    for (int span = 0; span < kSpans; ++span) {
      const auto at = [&](int row, int r) {
        r += span * Span;
        return c + c_offset(strip * Rows + row, r / kPerHalf) + r % kPerHalf * Registers::kFloats;
      };
      reg sum[Rows][Span];
#pragma GCC unroll 16
      for (int row = 0; row < Rows; ++row)
#pragma GCC unroll 4
        for (int r = 0; r < Span; ++r)
          sum[row][r] = Accumulate ? Registers::load(at(row, r)) : Registers::zero();

      const std::byte *a = o.a + strip * Rows * kLine, *b = o.b + b_offset(span * Span);
      for (int left = quads; left > 0; left -= kGroupUnits / kQuad) {
        const int here = left < kGroupUnits / kQuad ? left : kGroupUnits / kQuad;
        for (int quad = 0; quad < here; ++quad) {
#pragma GCC unroll 4
          for (int unit = quad * kQuad; unit < quad * kQuad + kQuad; ++unit) {
            reg line[Span];
#pragma GCC unroll 4
            for (int r = 0; r < Span; ++r)
              line[r] = Registers::load(reinterpret_cast<const float*>(b + b_offset(r) + unit * kLine));
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
        for (int r = 0; r < Span; ++r) Registers::store(at(row, r), sum[row][r]);
    }
}

}  // namespace fusion_attention::arch
