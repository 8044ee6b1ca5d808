// The row hooks of the backward. It works transposed: a row of a block is a key, its lanes are 32 queries, so
// that P and dS come out as A operands of dV = Pᵀ·dO and dK = dSᵀ·Q without a shuffle, and L and Δ are
// vectors.
//
//   Probability   P = exp2(S·scale·log2 e + bias − L)        woven into dPᵀ = V·dOᵀ
//   Gradient      dS = P∘(dP∘kept/keep_prob − Δ)             woven into the next Sᵀ = K·Qᵀ
//
// dV takes P∘kept. Its factor 1/keep_prob waits until dV is stored. Both hooks come in pieces (arch/tile.h).
#pragma once

#include "kernels/softmax.h"

namespace fusion_attention::kernels {

// One 32-key × 32-query tile on its way through the two hooks.
template <class Arch, class Format>
struct GradientStep {
  using vec = typename Arch::vec;

  float* s;                    // C block: Sᵀ, replaced by P
  const float* dp;             // C block: dPᵀ
  const float* log_sum;        // L of the 32 queries, base 2
  const float* delta;          // Δ of the 32 queries
  const std::uint32_t* shown;  // a word of 32 queries per key: those that see it (seen_tiles.h)
  float scale;                 // · log2 e
  std::byte* p;                // A, this tile's first group: Pᵀ
  std::byte* ds;               // A, likewise: dSᵀ
  std::size_t a_plane;
  std::byte* ds_b;  // B, this tile's first group: depth is the keys, columns the queries
  std::size_t b_plane;
  float* carry;               // dS of the even row of a pair, 32 floats
  const float* bias;          // C block (bias.h), transposed; null: none
  const std::uint32_t* kept;  // a word of 32 queries per key (dropout.h); null: all
  float inverse_keep;
  bool keep_gradient;  // dS in fp32 replaces P, for the gradient of a bias

  // What dropout leaves of sixteen lanes of row r.
  template <bool General>
  FA_INLINE vec left(int r, int half, vec x) const {
    if (!General || !kept) return x;
    return Arch::select(static_cast<std::uint16_t>(kept[r] >> half * kLanes), x, Arch::zero());
  }
  FA_INLINE static vec choose(std::uint32_t bits, int half, vec x, float otherwise) {
    return Arch::select(static_cast<std::uint16_t>(bits >> half * kLanes), x, Arch::set(otherwise));
  }

  // Half of a row of dS as B: a unit is a key (fp32) or a pair of keys, complete with its odd row.
  FA_INLINE void store_b_unit(int r, int half, vec d) const {
    std::byte* to = ds_b + half * (kGroupBytes / 2);
    if constexpr (Format::kUnitElements == 1) {
      Arch::store(reinterpret_cast<float*>(to + r / kLanes * kGroupBytes + r % kLanes * kLine), d);
    } else if (r % 2 == 0) {
      Arch::store(carry + half * kLanes, d);
    } else {
      constexpr bool kRound = Format::kPlanes == 1;
      vec even = Arch::load(carry + half * kLanes);
      for (int i = 0; i < Format::kPlanes; ++i)
        Arch::store(reinterpret_cast<float*>(to + i * b_plane + r / 2 * kLine), pair<kRound>(even, d));
    }
  }

 private:
  template <bool Round>
  FA_INLINE static vec pair(vec& even, vec& odd) {
    if constexpr (Round) return Arch::interleave(Arch::round_bf16(even), Arch::round_bf16(odd));
    const vec a = take_plane<Arch>(even), b = take_plane<Arch>(odd);
    return Arch::interleave(a, b);
  }
};

// One row from S to P. General: some pair of the tile is hidden, or there is a bias or dropout.
template <class Arch, class Format, bool General>
struct ProbabilityRow {
  using Step = GradientStep<Arch, Format>;
  using Exp2 = Exp2Steps<Arch, Format::kExpDegree>;
  static constexpr int kPieces = Exp2::kSteps + 2;

  const Step& step;
  int r;
  Exp2 e;

  FA_INLINE ProbabilityRow(const Step& step, int r) : step(step), r(r) {
    const std::uint32_t bits = General ? step.shown[r] : ~0u;
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      auto l = Arch::load(step.log_sum + half * kLanes);
      if (General && step.bias) l = Arch::sub(l, Arch::load(step.bias + arch::c_offset(r, half)));
      e.x[half] = Arch::fms(Arch::load(step.s + arch::c_offset(r, half)), Arch::set(step.scale), l);
      if constexpr (General) e.x[half] = Step::choose(bits, half, e.x[half], -kInfinity);
    }
  }

  FA_INLINE void piece(int i) {
    if (i < Exp2::kSteps) return e.step(i);
    if (i == Exp2::kSteps) {
      for (int half = 0; half < 2; ++half) Arch::store(step.s + arch::c_offset(r, half), e.p[half]);
    } else {
      store_a_line<Arch, Format>(step.p + r * kLine, step.a_plane, step.template left<General>(r, 0, e.p[0]),
                                 step.template left<General>(r, 1, e.p[1]));
    }
  }
};

// One row from P and dP to dS.
template <class Arch, class Format, bool General>
struct GradientRow {
  using Step = GradientStep<Arch, Format>;
  static constexpr int kPieces = 5;

  const Step& step;
  int r;
  typename Arch::vec d[2];

  FA_INLINE GradientRow(const Step& step, int r) : step(step), r(r) {
    for (int half = 0; half < 2; ++half) d[half] = Arch::load(step.dp + arch::c_offset(r, half));
  }

  FA_INLINE void piece(int i) {
    if (i == 0) return differ();
    if (i == 1) return weigh();
    if (i == 2) return store_a_line<Arch, Format>(step.ds + r * kLine, step.a_plane, d[0], d[1]);
    if (General && i == 3 && step.keep_gradient)
      for (int half = 0; half < 2; ++half) Arch::store(step.s + arch::c_offset(r, half), d[half]);
    step.store_b_unit(r, i - 3, d[i - 3]);
  }

 private:
  // dP∘kept/keep_prob − Δ
  FA_INLINE void differ() {
    for (int half = 0; half < 2; ++half) {
      if (General && step.kept)
        d[half] = Arch::mul(step.template left<true>(r, half, d[half]), Arch::set(step.inverse_keep));
      d[half] = Arch::sub(d[half], Arch::load(step.delta + half * kLanes));
    }
  }
  // · P; hidden pairs by choice, not by 0·x: dP or Δ may be NaN there.
  FA_INLINE void weigh() {
    const std::uint32_t bits = General ? step.shown[r] : ~0u;
    for (int half = 0; half < 2; ++half) {
      d[half] = Arch::mul(Arch::load(step.s + arch::c_offset(r, half)), d[half]);
      if constexpr (General) d[half] = Step::choose(bits, half, d[half], 0.0f);
    }
  }
};

// The hook of a tile that makes rows of either kind.
template <class Row, class Step>
struct GradientHook {
  const Step& step;

  FA_INLINE Row start(int r) const { return {step, r}; }
  FA_INLINE void operator()(int r) const {
    Row row = start(r);
#pragma GCC unroll 16
    for (int i = 0; i < Row::kPieces; ++i) row.piece(i);
  }
};

}  // namespace fusion_attention::kernels
