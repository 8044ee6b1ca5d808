// The softmax of one 32-row block, one row of 32 scores at a time: the hook of the forward, which decode
// calls row by row.
//
// Scores come as S = Q·Kᵀ in a C block; the row works on y = S·scale·log2 e, so that exp is exp2.
// m is a *lazy* reference: an integer, at most 8 below the largest y seen so far. It is raised only when some
// y exceeds it by more than that, and because it is an integer every rescale is an exact multiplication by a
// power of two: O, l and P lose nothing, and a row's result does not depend on when it was raised. l and top
// are rescaled at once; the P of a slice, the steps of one round trip, and O wait until they are multiplied
// (Raises, settle). The true maximum runs along in `top`, relative to m, and finish() makes the statistics
// relative to it.
#pragma once

#include <bit>
#include <cfloat>
#include <cstdint>

#include "arch/scalar.h"  // kExp2
#include "arch/tile.h"
#include "base/inline.h"
#include "base/math.h"
#include "kernels/bias.h"
#include "kernels/dropout.h"
#include "kernels/kernels.h"
#include "kernels/pack.h"
#include "kernels/visible.h"

namespace fusion_attention::kernels {

inline constexpr float kLn2 = 0.693147180559945309f;
inline constexpr float kHeadroom = 8.0f;  // P ≤ 2^8: far from overflow in any format, and rescales stay rare
inline constexpr float kNothing = -FLT_MAX;  // m of a row that has seen no key; its documented maximum
inline constexpr float kInfinity = __builtin_inff();

// Into the range of finite halves; NaN stays.
template <class Arch>
FA_INLINE typename Arch::vec saturate(typename Arch::vec x) {
  const auto most = Arch::set(65504.0f);
  x = Arch::max(Arch::set(-65504.0f), x);
  return Arch::select(Arch::greater(x, most), most, x);
}
template <class Arch>
FA_INLINE typename Arch::vec saturated_half(typename Arch::vec x) {
  return Arch::round_fp16(saturate<Arch>(x));
}

// Where channel c of row r lies in the C blocks of O.
FA_INLINE std::int64_t o_offset(int r, std::int64_t c) {
  return c / kBlock * std::int64_t{arch::kBlockFloats} +
         arch::c_offset(r, static_cast<int>(c % kBlock / kLanes)) + c % kLanes;
}

// The running softmax of 32 rows. Lives in scratch, one per row block and query head of a task.
template <class Arch>
struct alignas(64) SoftmaxState {
  using vec = typename Arch::vec;

  float m[kBlock];
  float l[kBlock][kLanes];             // sum of exp2(y − m), by lane
  float top[kBlock][kLanes];           // largest y − m, by lane
  Interval visible[kBlock];            // local keys the row sees; empty past the last row
  const std::uint8_t* hidden[kBlock];  // the row of the dense mask, null without one

  // Row r sees the local keys `sees`, less those that `mask`, its row of the dense mask (or null), hides.
  FA_INLINE void start(int r, Interval sees, const std::uint8_t* mask) {
    m[r] = kNothing;
    visible[r] = sees;
    hidden[r] = mask;
    Arch::store(l[r], Arch::zero());
    Arch::store(top[r], Arch::set(-kInfinity));
  }

  // The keys of the step from `key` on, of `keys` in all, that row r sees, as bits.
  FA_INLINE std::uint32_t shown(int r, std::int64_t key, std::int64_t keys, std::int64_t mask_stride) const {
    const std::uint32_t bits = visible_bits(visible[r].begin - key, visible[r].end - key);
    if (!hidden[r]) return bits;
    return bits & ~hidden_bits<Arch>(hidden[r], mask_stride, key, lesser(keys - key, kBlock));
  }
  FA_INLINE bool sees(int r, std::int64_t key, std::int64_t mask_stride) const {
    return key >= visible[r].begin && key < visible[r].end && !(hidden[r] && hidden[r][key * mask_stride]);
  }

  // Statistics of a finished row, natural logarithm domain.
  struct Row {
    float inverse;  // of l; 0 too where l is beyond 2^126, by a sink far above all scores
    float max, sum;
    bool nothing = false;  // was seen: O is 0
  };
  // Rows are finished one behind the other, and without a call they overlap.
  FA_INLINE static float exp2_of_one(float x) {
    alignas(kLine) float lanes[kLanes];
    Arch::store(lanes, Arch::template exp2<arch::Fp32::kExpDegree>(Arch::set(x)));
    return lanes[0];
  }
  // `sink`: one more logit, −∞ for none.
  FA_INLINE Row finish(int r, float sink) const {
    const float total = Arch::reduce_add(Arch::load(l[r])), above = Arch::reduce_max(Arch::load(top[r]));
    if (total == 0.0f && sink == -kInfinity) return {0.0f, kNothing, 0.0f, true};
    if (total == 0.0f) return {0.0f, sink, 1.0f, true};
    if (total != total) return {total, total, total};  // a NaN row: its maximum must not look like nothing
    const float max = (m[r] + above) * kLn2, sum = total * exp2_of_one(-above);
    if (sink == -kInfinity) return {1.0f / total, max, sum};
    const float largest = sink > max || sink != sink ? sink : max;
    const float inverse = 1.0f / (total + __builtin_exp2f(sink * kLog2E - m[r]));
    return {inverse, largest, sum * __builtin_expf(max - largest) + __builtin_expf(sink - largest)};
  }
};

// 2^k of an integral k <= 0; 0 below the smallest normal number, as everything is flushed there.
FA_INLINE float power_of_two(float k) {
  const int exponent = k > -127.0f ? static_cast<int>(k) + 127 : 0;
  return std::bit_cast<float>(exponent << 23);
}

// Rows whose reference was raised since the slice began. Where scores grow from step to step every row is
// raised in every step: O and P are rescaled once per slice all the same.
struct Raises {
  std::uint32_t rows = 0;                          // a bit each
  float of_output[kBlock];                         // the reference that O has been summed under
  int step[kBlock];                                // of the last raise
  float of_step[kMostRoundTrip / kBlock][kBlock];  // the references of P of the steps before it

  FA_INLINE void add(int r, float old, int begin, int index) {
    const bool first = !(rows >> r & 1);
    if (first) of_output[r] = old;
    for (int i = first ? begin : step[r]; i < index; ++i) of_step[i][r] = old;
    step[r] = index;
    rows |= std::uint32_t{1} << r;
  }
};

// One line of an A operand, 32 values, in every plane: rounded where there is one plane, split where there
// are more.
template <class Arch, class Format>
FA_INLINE void store_a_line(std::byte* to, std::size_t plane, typename Arch::vec a, typename Arch::vec b) {
  if constexpr (Format::kUnitElements == 1) {
    Arch::store(reinterpret_cast<float*>(to), a);
    Arch::store(reinterpret_cast<float*>(to + kGroupBytes), b);
  } else if constexpr (Format::kPlanes == 1) {
    Arch::store_pairs(to, a, b);
  } else {
    for (int i = 0; i < Format::kPlanes; ++i) {
      const auto low = take_plane<Arch>(a), high = take_plane<Arch>(b);
      Arch::store_pairs(to + i * plane, low, high);
    }
  }
}

// Scales every value of one row of an A line by a power of two.
template <class Arch, class Format>
FA_INLINE void scale_line(std::byte* line, float factor) {
  const auto f = Arch::set(factor);
  if constexpr (Format::kUnitElements == 1) {
    float* p = reinterpret_cast<float*>(line);
    Arch::store(p, Arch::mul(Arch::load(p), f));
  } else {
    bf16* p = reinterpret_cast<bf16*>(line);
    Arch::store_pairs(p, Arch::mul(Arch::load(p), f), Arch::mul(Arch::load(p + kLanes), f));
  }
}

// exp2 of a pair of vecs in steps 0 … Degree + 1, each short. Where an arch has it in one piece only, that is
// the last step.
template <class Arch, int Degree>
struct Exp2Steps {
  using vec = typename Arch::vec;
  static constexpr int kSteps = Degree + 2;
  vec x[2], fraction[2], p[2];

  FA_INLINE void step(int i) {
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h)
      if constexpr (requires { Arch::fraction(x[h]); }) {
        if (i == 0) {
          fraction[h] = Arch::fraction(x[h]);
          p[h] = Arch::set(arch::kExp2<Degree>[Degree]);
        } else if (i <= Degree) {
          p[h] = Arch::fma(p[h], fraction[h], Arch::set(arch::kExp2<Degree>[Degree - i]));
        } else {
          p[h] = Arch::scale(p[h], x[h]);
        }
      } else if (i == kSteps - 1) {
        p[h] = Arch::template exp2<Degree>(x[h]);
      }
  }
};

// One row of 32 scores on its way from y − m to P, l and top: a hook in pieces (arch/tile.h). General: some
// of its probabilities may be dropped, after l is summed.
template <class Arch, class Format, bool General>
struct SoftmaxRow {
  using Exp2 = Exp2Steps<Arch, Format::kExpDegree>;
  static constexpr int kPieces = Exp2::kSteps + 2;

  Exp2 e;
  float *l, *top;
  std::byte* line;  // of P
  std::size_t p_plane;
  std::uint32_t kept;
  typename Arch::vec sum;

  FA_INLINE void piece(int i) {
    if (i == 0) Arch::store(top, Arch::max(Arch::load(top), Arch::max(e.x[0], e.x[1])));
    if (i < Exp2::kSteps) e.step(i);
    if (i == Exp2::kSteps) {
      sum = Arch::add(e.p[0], e.p[1]);
      store_a_line<Arch, Format>(line, p_plane, left(0), left(1));
    }
    if (i == Exp2::kSteps + 1) Arch::store(l, Arch::add(Arch::load(l), sum));
  }
  FA_INLINE typename Arch::vec left(int half) const {
    if constexpr (!General) return e.p[half];
    return Arch::select(static_cast<std::uint16_t>(kept >> half * kLanes), e.p[half], Arch::zero());
  }
};

// The softmax of one step: 32 keys from `key` on, scores in `s`, P going to step `index` of the slice at `p`.
template <class Arch, class Format>
struct SoftmaxStep {
  using vec = typename Arch::vec;
  static constexpr int kStepGroups = kBlock / kGroupElements<Format>;  // groups of P in a step: 2 or 1
  static_assert(kStepGroups >= 1);

  SoftmaxState<Arch>* state;
  const float* s;                        // C block
  std::byte* p;                          // A, [plane][groups of the slice][32][64 B]
  std::size_t p_plane;                   // bytes
  Raises* raises;                        // of the slice
  std::int64_t key;                      // first key of the step
  std::int64_t keys;                     // keys of the sequence
  std::int64_t mask_key;                 // bytes between keys of the dense mask
  float scale;                           // · log2 e
  int begin;                             // first step of this block in the slice
  int index;                             // this step in the slice
  int rows = kBlock;                     // past them nothing needs to be done
  bool half_scores = false;              // read by a general hook; of others the kind says it
  const float* bias = nullptr;           // C block (bias.h); null: none
  const std::uint32_t* kept = nullptr;   // a word per row (dropout.h); null: all
  const std::uint32_t* shown = nullptr;  // a word per row; null: ask the state, in a general hook

  // The hook of a step. Part: some pair of it is hidden, as `shown` says, and there is no more to it.
  // General: there may be a bias, dropout, or scores rounded to halves besides. Halves: a step that would be
  // plain if its scores were not rounded.
  enum class Kind { plain, part, general, halves };
  template <Kind kKind>
  struct Hook {
    const SoftmaxStep& step;

    FA_INLINE auto start(int r) const { return step.template start<kKind>(r); }
    FA_INLINE void operator()(int r) const {
      if (r >= step.rows) return;
      auto row = start(r);
#pragma GCC unroll 16
      for (int i = 0; i < row.kPieces; ++i) row.piece(i);
    }
  };
  FA_INLINE Hook<Kind::plain> plain() const { return {*this}; }
  FA_INLINE Hook<Kind::part> part() const { return {*this}; }
  FA_INLINE Hook<Kind::general> general() const { return {*this}; }
  FA_INLINE Hook<Kind::halves> halves() const { return {*this}; }

 private:
  // Scores of hidden keys are replaced, never multiplied: a NaN there is gone before it meets anything. What
  // a row computes does not depend on whether some pair of its step is hidden: that is its neighbours'
  // affair.
  template <Kind kKind>
  FA_INLINE SoftmaxRow<Arch, Format, kKind == Kind::general> start(int r) const {
    constexpr bool kGeneral = kKind == Kind::general, kPart = kGeneral || kKind == Kind::part;
    const std::uint32_t bits = !kPart               ? ~0u
                               : !kGeneral || shown ? shown[r]
                                                    : state->shown(r, key, keys, mask_key);
    const float* row = s + arch::c_offset(r, 0);
    const vec factor = Arch::set(scale);
    const auto visible = [&](vec x, int half) __attribute__((always_inline)) {
      const auto mask = static_cast<std::uint16_t>(bits >> half * kLanes);
      return kPart ? Arch::select(mask, x, Arch::set(-kInfinity)) : x;
    };
    const bool biased = kGeneral && bias != nullptr;
    const auto score = [&](int half) __attribute__((always_inline)) {
      const vec x = Arch::load(row + half * 256);
      return kKind == Kind::halves || (kGeneral && half_scores) ? saturated_half<Arch>(x) : x;
    };
    const auto y = [&](int half) __attribute__((always_inline)) {
      const vec x = score(half);
      return biased ? Arch::fma(x, factor, Arch::load(bias + arch::c_offset(r, half))) : Arch::mul(x, factor);
    };
    const vec m = Arch::set(state->m[r]);
    const auto relative = [&](int half) __attribute__((always_inline)) {
      return visible(biased ? Arch::sub(y(half), m) : Arch::fms(score(half), factor, m), half);
    };
    vec x0 = relative(0), x1 = relative(1);
    if (Arch::greater(Arch::max(x0, x1), Arch::set(kHeadroom))) [[unlikely]] {
      // Rounded as the reference is: fused, the largest of huge scores would exceed it by half an ulp, which
      // may be any number.
      const vec y0 = visible(y(0), 0), y1 = visible(y(1), 1);
      raise(r, y0, y1);
      const vec raised = Arch::set(state->m[r]);
      x0 = Arch::sub(y0, raised), x1 = Arch::sub(y1, raised);
    }
    SoftmaxRow<Arch, Format, kGeneral> started;
    started.e.x[0] = x0, started.e.x[1] = x1;
    started.l = state->l[r], started.top = state->top[r];
    started.line = line(index, r), started.p_plane = p_plane;
    if constexpr (kGeneral) started.kept = kept ? kept[r] : ~0u;
    return started;
  }

  FA_INLINE std::byte* line(int step, int r) const {
    return p + step * kStepGroups * kGroupBytes + r * kLine;
  }

  // Raises the reference of row r to the integer next to its largest score, towards zero (so that a maximum
  // near zero is not the difference of two larger numbers), and rescales l and top, which were summed under
  // the old one. O and P wait for settle. No further than that: P would be so much smaller, and its product
  // with the smallest of V flushed to 0.
  [[gnu::noinline]] void raise(int r, vec y0, vec y1) const {
    const float raised = __builtin_truncf(Arch::reduce_max(Arch::max(y0, y1))), old = state->m[r];
    state->m[r] = raised;
    if (old == kNothing) return;
    Arch::store(state->l[r], Arch::mul(Arch::load(state->l[r]), Arch::set(power_of_two(old - raised))));
    Arch::store(state->top[r], Arch::add(Arch::load(state->top[r]), Arch::set(old - raised)));
    raises->add(r, old, begin, index);
  }
};

// O and the P of a slice, about to be multiplied by V, under the references that their rows have now.
// `columns`: C blocks of O; none where nothing is in it yet.
template <class Arch, class Format>
[[gnu::noinline]] void settle(Raises& raises, const float* m, std::byte* p, std::size_t p_plane, int begin,
                              float* o, int columns) {
  constexpr int kStepGroups = kBlock / kGroupElements<Format>;
  for (; raises.rows != 0; raises.rows &= raises.rows - 1) {
    const int r = __builtin_ctz(raises.rows);
    const auto f = Arch::set(power_of_two(raises.of_output[r] - m[r]));
    for (int half = 0; half < 2 * columns; ++half) {
      float* lanes = o + half / 2 * arch::kBlockFloats + arch::c_offset(r, half % 2);
      Arch::store(lanes, Arch::mul(Arch::load(lanes), f));
    }
    for (int plane = 0; plane < Format::kPlanes; ++plane)
      for (int g = begin * kStepGroups; g < raises.step[r] * kStepGroups; ++g)
        scale_line<Arch, Format>(p + plane * p_plane + g * kGroupBytes + r * kLine,
                                 power_of_two(raises.of_step[g / kStepGroups][r] - m[r]));
  }
}

}  // namespace fusion_attention::kernels
