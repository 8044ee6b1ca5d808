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

// Spreads the 32 rows of a hook evenly over `steps` calls of advance().
class Pace {
 public:
  FA_INLINE explicit Pace(int steps) : steps_(steps) {}

  FA_INLINE void advance() { credit_ += kBlock; }
  FA_INLINE bool due() const { return credit_ >= steps_; }
  FA_INLINE int take() {
    credit_ -= steps_;
    return row_++;
  }

  // One call site, so that a long hook is inlined once; or apart(), where registers are few.
  template <bool kInline = true, class Hook>
  FA_INLINE void step(Hook& hook) {
    if constexpr (!std::is_same_v<std::remove_const_t<Hook>, NoHook>)
      for (advance(); due();) {
        if constexpr (kInline) {
          hook(take());
        } else {
          apart(hook, take());
        }
      }
  }

 private:
  // Inlined, the constants of a hook take registers from C in all of the loop around it.
  template <class Hook>
  [[gnu::noinline]] static void apart(Hook& hook, int row) {
    hook(row);
  }

  int steps_, credit_ = 0, row_ = 0;
};

// A sub-tile of C in registers. Registers says what a register is: reg, kFloats, kWeaves (whether there are
// enough to spare for a hook inside the loop, inlined and in pieces), load(const float*), store(float*, reg),
// zero(), add(reg, reg), broadcast(const std::byte*) of one unit, and multiply<Format>(c, a, b) = c + a·b.
template <class Registers, class Format, int Rows, int Span>
struct SubTile {
  static_assert(Format::kPlanes == 1, "several planes are for tile units");
  using reg = typename Registers::reg;
  static constexpr int kPerHalf = kLanes / Registers::kFloats;
  static constexpr int kPlaces = kQuad * Rows;  // between the multiplications of a quad
  reg sum[Rows][Span];

  FA_INLINE static std::size_t c_at(int row, int r) {
    return static_cast<std::size_t>(c_offset(row, r / kPerHalf) + r % kPerHalf * Registers::kFloats);
  }
  FA_INLINE static std::size_t b_at(int r) {
    return r / kPerHalf * (kGroupBytes / 2) + r % kPerHalf * (kLine / kPerHalf);
  }
  template <bool Accumulate>
  FA_INLINE void begin(const float* c) {
#pragma GCC unroll 16
    for (int row = 0; row < Rows; ++row)
#pragma GCC unroll 4
      for (int r = 0; r < Span; ++r)
        sum[row][r] = Accumulate ? Registers::load(c + c_at(row, r)) : Registers::zero();
  }
  // What end() will read: C may lie in a distant cache, and the loads at the end stand in the way of the next
  // sub-tile.
  FA_INLINE static void fetch(const float* c) {
#pragma GCC unroll 16
    for (int row = 0; row < Rows; ++row)
#pragma GCC unroll 4
      for (int r = 0; r < Span; ++r) __builtin_prefetch(c + c_at(row, r), 1);
  }
  // Four units from a and b on; between(place) after each row of each unit.
  template <class Between>
  FA_INLINE void multiply(const std::byte* a, const std::byte* b, Between between) {
#pragma GCC unroll 4
    for (int unit = 0; unit < kQuad; ++unit) {
      reg line[Span];
#pragma GCC unroll 4
      for (int r = 0; r < Span; ++r)
        line[r] = Registers::load(reinterpret_cast<const float*>(b + b_at(r) + unit * kLine));
#pragma GCC unroll 16
      for (int row = 0; row < Rows; ++row) {
        const reg x = Registers::broadcast(a + row * kLine + unit * 4);
#pragma GCC unroll 4
        for (int r = 0; r < Span; ++r)
          sum[row][r] = Registers::template multiply<Format>(sum[row][r], x, line[r]);
        between(unit * Rows + row);
      }
    }
  }
  template <bool Accumulate>
  FA_INLINE void end(float* c) const {
#pragma GCC unroll 16
    for (int row = 0; row < Rows; ++row)
#pragma GCC unroll 4
      for (int r = 0; r < Span; ++r) {
        float* to = c + c_at(row, r);
        Registers::store(to, Accumulate ? Registers::add(Registers::load(to), sum[row][r]) : sum[row][r]);
      }
  }
};

// One sub-tile over the whole depth. a: its first row. b, c: its first column, of which c in a C block that
// continues for Rows rows without a change of half.
//
// What C held joins at the end, so that no chain of roundings is longer than the depth of one block: begun
// from C, the relative error of O in fp32 grew with the root of S, 1.2e-6 at S = 4096 instead of 4.2e-7.
// Integers are exact in any order, and add() is that of floats.
//
// A hook that comes in pieces has them spread over the multiplications of a quad. All at once, the chain of
// dependent operations in a row of softmax (50 cycles) keeps the instructions behind it from retiring until
// the registers to rename them with run out; measured, Q·Kᵀ with softmax on Emerald Rapids: 84 → 91 % of the
// FMA peak at D = 128, 73 → 84 % at D = 64.
template <class Registers, class Format, bool Accumulate, int Rows, int Span, class Hook>
FA_INLINE void sub_tile(const std::byte* a, const std::byte* b, float* c, int quads, Pace& pace, Hook& hook) {
  using Tile = SubTile<Registers, Format, Rows, Span>;
  constexpr bool kExact = IntegerFormat<Format>;
  constexpr auto nothing = [](int) {};
  Tile tile;
  if constexpr (Accumulate && !kExact) Tile::fetch(c);
  tile.template begin<Accumulate && kExact>(c);
  for (int left = quads; left > 0; left -= kGroupUnits / kQuad) {
    const int here = left < kGroupUnits / kQuad ? left : kGroupUnits / kQuad;
    for (int quad = 0; quad < here; ++quad) {
      const std::byte *a_quad = a + quad * kQuad * 4, *b_quad = b + quad * kQuad * kLine;
      if constexpr (Registers::kWeaves && InPieces<Hook>) {
        pace.advance();
        if (pace.due()) {
          auto row = hook.start(pace.take());
          constexpr int kGap = Tile::kPlaces / decltype(row)::kPieces;
          static_assert(kGap > 0);
          tile.multiply(a_quad, b_quad, [&](int place) __attribute__((always_inline)) {
            if (place % kGap == 0 && place / kGap < row.kPieces) row.piece(place / kGap);
          });
          while (pace.due()) hook(pace.take());
        } else {
          tile.multiply(a_quad, b_quad, nothing);
        }
      } else {
        tile.multiply(a_quad, b_quad, nothing);
        pace.step<Registers::kWeaves>(hook);
      }
    }
    a += kGroupBytes;
    b += kGroupBytes;
  }
  tile.template end<Accumulate && !kExact>(c);
}

}  // namespace fusion_attention::arch
