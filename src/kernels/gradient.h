// The row hooks of the backward. It works transposed: a row of a block is a key, its lanes are 32 queries, so
// that P and dS come out as A operands of dV = Pᵀ·dO and dK = dSᵀ·Q without a shuffle, and L and Δ are
// vectors.
//
//   probability   P = exp2(S·scale·log2 e + bias − L)        woven into dPᵀ = V·dOᵀ
//   gradient      dS = P∘(dP∘kept/keep_prob − Δ)             woven into the next Sᵀ = K·Qᵀ
//
// dV takes P∘kept. Its factor 1/keep_prob waits until dV is stored.
#pragma once

#include "kernels/softmax.h"

namespace fusion_attention::kernels {

// One 32-key × 32-query tile on its way through the two hooks.
template <class Arch, class Format>
struct GradientStep {
  using vec = typename Arch::vec;

  float* s;                     // C block: Sᵀ, replaced by P
  const float* dp;              // C block: dPᵀ
  const float* log_sum;         // L of the 32 queries, base 2
  const float* delta;           // Δ of the 32 queries
  const Interval* queries;      // of each key: the rows that see it, local
  std::int64_t query;           // first query of the tile, local
  std::uint32_t alive;          // queries that exist and saw something
  const std::uint32_t* hidden;  // by a dense mask: a word of 32 queries per key; null: none
  float scale;                  // · log2 e
  std::byte* p;                 // A, this tile's first group: Pᵀ
  std::byte* ds;                // A, likewise: dSᵀ
  std::size_t a_plane;
  std::byte* ds_b;  // B, this tile's first group: depth is the keys, columns the queries
  std::size_t b_plane;
  float* carry;               // dS of the even row of a pair, 32 floats
  const float* bias;          // C block (bias.h), transposed; null: none
  const std::uint32_t* kept;  // a word of 32 queries per key (dropout.h); null: all
  float inverse_keep;
  bool keep_gradient;  // dS in fp32 replaces P, for the gradient of a bias

  FA_INLINE std::uint32_t visible(int r) const {
    const std::uint32_t bits = alive & visible_bits(queries[r].begin - query, queries[r].end - query);
    return hidden ? bits & ~hidden[r] : bits;
  }

  // General: some pair of the tile is hidden, or there is a bias or dropout.
  template <bool General>
  FA_INLINE void probability(int r) const {
    float* row = s + arch::c_offset(r, 0);
    const vec factor = Arch::set(scale);
    vec l0 = Arch::load(log_sum), l1 = Arch::load(log_sum + kLanes);
    if (General && bias) {
      l0 = Arch::sub(l0, Arch::load(bias + arch::c_offset(r, 0)));
      l1 = Arch::sub(l1, Arch::load(bias + arch::c_offset(r, 1)));
    }
    vec x0 = Arch::fms(Arch::load(row), factor, l0);
    vec x1 = Arch::fms(Arch::load(row + 256), factor, l1);
    if constexpr (General) {
      const std::uint32_t bits = visible(r);
      x0 = Arch::select(static_cast<std::uint16_t>(bits), x0, Arch::set(-kInfinity));
      x1 = Arch::select(static_cast<std::uint16_t>(bits >> 16), x1, Arch::set(-kInfinity));
    }
    const vec p0 = Arch::template exp2<Format::kExpDegree>(x0),
              p1 = Arch::template exp2<Format::kExpDegree>(x1);
    Arch::store(row, p0);
    Arch::store(row + 256, p1);
    store_a_line<Arch, Format>(p + r * kLine, a_plane, left<General>(r, 0, p0), left<General>(r, 1, p1));
  }

  template <bool General>
  FA_INLINE void gradient(int r) const {
    const int at = arch::c_offset(r, 0);
    vec dp0 = Arch::load(dp + at), dp1 = Arch::load(dp + at + 256);
    if (General && kept) {
      dp0 = Arch::mul(left<true>(r, 0, dp0), Arch::set(inverse_keep));
      dp1 = Arch::mul(left<true>(r, 1, dp1), Arch::set(inverse_keep));
    }
    vec d0 = Arch::mul(Arch::load(s + at), Arch::sub(dp0, Arch::load(delta)));
    vec d1 = Arch::mul(Arch::load(s + at + 256), Arch::sub(dp1, Arch::load(delta + kLanes)));
    if constexpr (General) {  // by choice, not by 0·x: dP or Δ may be NaN at a hidden pair
      const std::uint32_t bits = visible(r);
      d0 = Arch::select(static_cast<std::uint16_t>(bits), d0, Arch::zero());
      d1 = Arch::select(static_cast<std::uint16_t>(bits >> 16), d1, Arch::zero());
    }
    store_a_line<Arch, Format>(ds + r * kLine, a_plane, d0, d1);
    if (General && keep_gradient) {
      Arch::store(s + at, d0);
      Arch::store(s + at + 256, d1);
    }
    store_b_unit(r, d0, d1);
  }

 private:
  // What dropout leaves of sixteen lanes of row r.
  template <bool General>
  FA_INLINE vec left(int r, int half, vec x) const {
    if (!General || !kept) return x;
    return Arch::select(static_cast<std::uint16_t>(kept[r] >> half * kLanes), x, Arch::zero());
  }

  // B: a unit is a key (fp32) or a pair of keys, complete with its odd row.
  FA_INLINE void store_b_unit(int r, vec d0, vec d1) const {
    if constexpr (Format::kUnitElements == 1) {
      std::byte* to = ds_b + r / kLanes * kGroupBytes + r % kLanes * kLine;
      Arch::store(reinterpret_cast<float*>(to), d0);
      Arch::store(reinterpret_cast<float*>(to + kGroupBytes / 2), d1);
    } else if (r % 2 == 0) {
      Arch::store(carry, d0);
      Arch::store(carry + kLanes, d1);
    } else {
      vec even[2] = {Arch::load(carry), Arch::load(carry + kLanes)}, odd[2] = {d0, d1};
      for (int half = 0; half < 2; ++half)
        for (int i = 0; i < Format::kPlanes; ++i) {
          std::byte* to = ds_b + i * b_plane + half * (kGroupBytes / 2) + r / 2 * kLine;
          Arch::store(reinterpret_cast<float*>(to), pair < Format::kPlanes == 1 > (even[half], odd[half]));
        }
    }
  }
  template <bool Round>
  FA_INLINE static vec pair(vec& even, vec& odd) {
    if constexpr (Round) return Arch::interleave(Arch::round_bf16(even), Arch::round_bf16(odd));
    const vec a = take_plane<Arch>(even), b = take_plane<Arch>(odd);
    return Arch::interleave(a, b);
  }
};

}  // namespace fusion_attention::kernels
