// The vocabulary every kernel is written in: formats of packed operands, and the verbs an arch owes.
//
// A 32 × 32 block is the noun. Operands are packed into 64-byte lines of 16 units; a unit is 4 bytes
// along the contracted axis: one float, or a pair of bf16. The formats are those of the AMX tiles, for
// every machine, so there is one packing code and one drawing:
//
//   A  [plane][group][32 rows][16 units]              rows of Q, P, K ...     one row of one group = 64 B
//   B  [plane][group][2 halves][16 units][16 columns]  Kᵀ, V ...              one unit of 16 columns = 64 B
//   C  [2 row halves][2 column halves][16 rows][16 columns] float             4 KiB
//
// A group is 16 units of depth: 16 floats or 32 bf16. Padding inside a group is zero.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fusion_attention::arch {

inline constexpr int kBlock = 32;                             // rows and columns of a block
inline constexpr int kLanes = 16;                             // floats in a vec, columns in a half
inline constexpr int kGroupUnits = 16;                        // units in a group
inline constexpr std::size_t kLine = 64;                      // bytes of a line
inline constexpr std::size_t kGroupBytes = kBlock * kLine;    // one group of A or of B: 2 KiB
inline constexpr std::size_t kBlockFloats = kBlock * kBlock;  // one C block

// Where row r (or column half) of a C block begins.
constexpr int c_offset(int row, int half) {
  return (row / 16) * 512 + half * 256 + (row % 16) * 16;
}

// How a value is held in A and B. A value is the sum of its planes; the product of two values is the
// sum of the products of planes i, j with i + j <= kOrder (1, 4 or 6 of them), all into the same C.
template <int ExpDegree>
struct Fp32Units {
  static constexpr int kUnitElements = 1;  // elements in a unit
  static constexpr int kPlanes = 1;
  static constexpr int kOrder = 0;
  static constexpr int kExpDegree = ExpDegree;  // of the exp2 polynomial
};
using Fp32 = Fp32Units<5>;      // relative error of exp2: 1.4e-7
using Fp32Bf16 = Fp32Units<3>;  // of bf16 operands: 7.5e-5 hides below the rounding of their results, 2^-9
template <int Planes>
struct Bf16Planes {
  static constexpr int kUnitElements = 2;
  static constexpr int kPlanes = Planes;  // 1: bf16; 2: fp16 exactly; 3: fp32 to 2^-24
  // fp16: all four products, or a short row would miss the bound of fp16 by FMA; fp32: what is left out is
  // below 2^-21.
  static constexpr int kOrder = Planes == 1 ? 0 : 2;
  static constexpr int kExpDegree = Planes == 1 ? Fp32Bf16::kExpDegree : Fp32::kExpDegree;
};
using Bf16 = Bf16Planes<1>;

// Integers: C holds int32 in the place of floats, and every product is exact. An arch takes one of them.
struct Words {  // pairs of int16
  using A = std::int16_t;
  using B = std::int16_t;
  static constexpr int kUnitElements = 2, kPlanes = 1, kOrder = 0;
  static constexpr int kRaise = 0;  // added to every value of A
};
struct Bytes {  // quads of int8
  using A = std::int8_t;
  using B = std::int8_t;
  static constexpr int kUnitElements = 4, kPlanes = 1, kOrder = 0;
  static constexpr int kRaise = 0;
};
struct RaisedBytes {  // quads, A unsigned: C is too large by kRaise times the sum of a column of B
  using A = std::uint8_t;
  using B = std::int8_t;
  static constexpr int kUnitElements = 4, kPlanes = 1, kOrder = 0;
  static constexpr int kRaise = 128;
};
template <class Format>
concept IntegerFormat = requires { Format::kRaise; };

template <class Format>
constexpr int kGroupElements = kGroupUnits * Format::kUnitElements;

// What block() multiplies: C[32 × 16·Columns] (+)= Σ over plane pairs A[32 × units] · B[units × 16·Columns].
struct Operands {
  const std::byte* a;
  const std::byte* b;
  std::size_t a_plane;  // bytes from one plane of A to the next; ignored with one plane
  std::size_t b_plane;
  int units;          // depth in units, any number >= 1; lines up to the end of the group exist and are zero
  int rows = kBlock;  // rows of C that matter: an arch may compute more, up to 32, never fewer
};

// block() calls hook(row) for row = 0 … 31 once each, in that order, between its multiplications; when
// is the arch's business. NoHook compiles to nothing.
struct NoHook {
  constexpr void operator()(int) const {}
};

// A hook may also come in pieces: start(row) gives an object whose piece(0) … piece(kPieces − 1) do, in that
// order, what is left of hook(row). An arch may put multiplications between them, or call hook(row).
template <class Hook>
concept InPieces = requires(Hook& hook) { hook.start(0).piece(0); };

// An arch is a struct of static functions, all FA_INLINE:
//
//   kName                                       "scalar", "avx2", ...
//   vec                                         16 floats
//   mask                                        std::uint16_t, bit i = lane i
//   zero() set(float)
//   load(const T*) load(const T*, n)            T = float, bf16, f16; n lanes, the rest 0 and not touched
//   load(const int8_t*[, n])                    integers as floats
//   load(const int4_pair*[, n])                 sixteen of them in eight bytes
//   store(T*, vec) store(T*, vec, n)            rounds to nearest even
//   store(int8_t*, vec)                         to the nearest integer, ties to even, saturating; no NaN
//   from_int32(vec)                             lanes are the bits of an int32: rounded to nearest even
//   add sub mul max(vec, vec)                   max(a, b): b where either is NaN
//   fma(a, b, c) = a·b + c    fms(a, b, c) = a·b − c
//   sqrt(vec)                                   correctly rounded; x >= 0
//   exp2<Degree>(vec)                           x <= 127; 0 for −inf, NaN for NaN. Under FloatMode 0 for
//                                               x < -126, elsewhere perhaps the denormal
//   power(p, k)                                 p·2^k, k integral, −126 … 127
//   fraction(x) scale(p, x)                     optional, where one instruction does it: x − floor x and
//                                               p·2^floor x, to compute exp2 step by step
//   greater(a, b) -> mask                       false for NaN
//   unordered(a) -> mask                        lanes that are NaN or ±inf
//   select(mask, a, b)                          a where the bit is set
//   bytes(const uint8_t* p, n) -> mask          lanes whose byte is non-zero; n <= 16 bytes are read
//   reduce_max(vec) reduce_add(vec) -> float    fixed order
//   sums(const vec (&)[16]) -> vec              lane i: the sum of the lanes of vec i
//   transpose(vec (&)[16])                      16 × 16 of 32-bit units, bit exact
//   truncate_bf16(vec) round_bf16(vec)          to a bf16 value, still held as float; truncation keeps NaN
//   round_bf16_number(vec)                      round_bf16 of numbers, infinities and NaN whose lower half is
//   0 round_fp16(vec)                             to the nearest half, ties to even, still held as float;
//   past
//                                               65504 to infinity, denormal halves kept under FloatMode
//   interleave(lo, hi)                          units {bf16(lo), bf16(hi)} by truncation: B of two rows
//   store_pairs(void*, a, b)                    32 consecutive bf16, rounded to nearest even: A
//   block<Format, Accumulate, Columns>(Operands, float* c, hook)      Columns = 1 or 2 halves
//   philox(counter[16], high, seed, threshold, mask kept[4])
//                                               bit i of kept[w]: the low 23 bits of word w of the counter
//                                               (counter[i], high) are at least threshold
//   begin() end()                               around a task: tile configuration and the like
//
// scalar.h is the definition of all of it in plain loops.

}  // namespace fusion_attention::arch
