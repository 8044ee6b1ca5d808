// Few query rows against many keys: group × rows ≤ 16, of which the machine table takes fewer. Every key is
// used a handful of times, so packing it would cost more than it saves: K and V are read once, where they lie
// (keys.h), and the limit is the memory's.
//
//   for step of 32 keys:   S = Q·Kᵀ  by dot_rows: one pass over the rows of K for all queries
//                          P = softmax(S), the same rows of the same state as in the forward
//                          O += P·V  by weigh_rows: one pass over the rows of V
//
// K and V are fetched one step ahead, so that its lines arrive while the step before is computed (measured
// best of 16, 24, 32, 64 rows on Zen 5; spread over the loop, never in bursts).
#pragma once

#include <new>
#include <type_traits>

#include "kernels/keys.h"
#include "kernels/partial.h"
#include "kernels/rate.h"
#include "kernels/softmax.h"

namespace fusion_attention::kernels {

inline constexpr int kTogether = 4;  // query rows that share one pass over a row of K or V, at most

// Vecs of sums side by side: eight registers hide the latency of FMA, and a vec is one or two of them.
template <class Arch>
inline constexpr int kSums = alignof(typename Arch::vec) < kLine ? 4 : 8;

// Where everything of a task lies in its scratch.
template <class Arch, class T>
struct DecodeLayout {
  std::int64_t depth;  // D rounded up to whole vectors
  int columns;         // C blocks of O
  std::size_t state, queries, scores, weights, sums, outputs, step, bytes;

  FA_INLINE explicit DecodeLayout(const Shape& shape) {
    depth = round_up(shape.depth, kLanes);
    columns = static_cast<int>(ceil_div(shape.value_depth, kBlock));
    state = 0;
    queries = round_up(sizeof(SoftmaxState<Arch>), kLine);
    scores = queries + kDecodeRows * depth * sizeof(float);
    weights = scores + arch::kBlockFloats * sizeof(float);
    sums = weights + 2 * kGroupBytes;
    outputs = sums + kTogether * kLanes * kLine;
    step = outputs + columns * arch::kBlockFloats * sizeof(float);
    bytes = step + KeyRows<Arch, T, float>::step_bytes(greater(shape.depth, shape.value_depth));
  }
};

template <class Arch, class T>
class DecodeRun {
  using vec = typename Arch::vec;
  using State = SoftmaxState<Arch>;
  using Step = typename KeyRows<Arch, T, float>::Step;

 public:
  DecodeRun(const ForwardArgs& args, const ForwardTask& task, std::byte* scratch)
      : a_(args),
        shape_(args.shape),
        t_(task),
        at_(args.shape),
        scratch_(scratch),
        state_(*new(scratch) State),
        keys_(args.key, task.kv_head, shape_.depth, scratch + at_.step),
        values_(args.value, task.kv_head, shape_.value_depth, scratch + at_.step),
        value_in_key_(holds(args.key, args.value)) {}

  void run() {
    start();
    const Interval reach = reached_keys(shape_, t_);
    for (std::int64_t key = reach.begin; key < reach.end; key += kBlock) {
      const int n = static_cast<int>(lesser(kBlock, reach.end - key));
      const Step keys = keys_.step(key, n, reach.end);
      keys.visit([&](const auto& k) { dot_rows(k, n); });
      const bool part = soften(key, n);
      const Step values = value_in_key_ ? keys : values_.step(key, n, reach.end);
      values.visit([&](const auto& v) {
        for (int r = 0; r < rows(); r += kTogether)
          with_rows(r, [&](auto together) {
            part ? weigh_rows<true, together()>(r, v, key, n) : weigh_rows<false, together()>(r, v, key, n);
          });
      });
    }
    for (int r = 0; r < rows(); ++r)
      finish_row<Arch, T>(a_, t_, head_of(r), row_of(r), state_, r,
                          floats(at_.outputs) + arch::c_offset(r, 0));
  }

 private:
  // Query rows are numbered head by head.
  std::int64_t task_rows() const { return t_.row_end - t_.row_begin; }
  int rows() const { return static_cast<int>(shape_.group * task_rows()); }
  std::int64_t head_of(int r) const { return t_.kv_head * shape_.group + r / task_rows(); }
  std::int64_t row_of(int r) const { return t_.row_begin + r % task_rows(); }

  // use(number of query rows from r on that share a pass), a constant.
  template <class Use>
  FA_INLINE void with_rows(int r, const Use& use) const {
    switch (rows() - r) {
      case 1:
        return use(std::integral_constant<int, 1>{});
      case 2:
        return use(std::integral_constant<int, 2>{});
      case 3:
        return use(std::integral_constant<int, 3>{});
      default:
        return use(std::integral_constant<int, kTogether>{});
    }
  }

  float* floats(std::size_t offset) const { return reinterpret_cast<float*>(scratch_ + offset); }

  void start() {
    float* queries = floats(at_.queries);
    for (int r = 0; r < kDecodeRows; ++r) {
      const bool real = r < rows();
      const std::int64_t head = real ? head_of(r) : 0, row = real ? row_of(r) : 0;
      state_.start(r, real ? visible_keys(shape_, t_, row) : Interval{},
                   real ? mask_row(shape_.overlay, head, row) : nullptr);
      const T* q = reinterpret_cast<const T*>(a_.query.data + head * a_.query.head + row * a_.query.row);
      for (std::int64_t d = 0; d < at_.depth; d += kLanes)
        Arch::store(queries + r * at_.depth + d,
                    real ? load_some<Arch>(q + d, shape_.depth - d) : Arch::zero());
    }
    for (std::size_t i = 0; i < at_.columns * arch::kBlockFloats; i += kLanes)
      Arch::store(floats(at_.outputs) + i, Arch::zero());
  }

  // S of n ≤ 32 keys. The sixteen lanes of a dot product are added up for sixteen keys at once.
  template <class From>
  void dot_rows(const From& keys, int n) {
    for (int half = 0; half * kLanes < n; ++half) {
      const int here = static_cast<int>(lesser(kLanes, n - half * kLanes));
      for (int r = 0; r < rows(); r += kTogether)
        with_rows(r, [&](auto together) { dot_half<together()>(r, keys, half, here); });
    }
  }
  template <int Together, class From>
  void dot_half(int first, const From& keys, int half, int n) {
    constexpr int kKeys = kSums<Arch> / Together;  // what is loaded of Q serves all of them
    int j = 0;
    for (; j + kKeys <= n; j += kKeys) dot_keys<Together, kKeys>(first, keys, half * kLanes + j, j);
    for (; j < n; ++j) dot_keys<Together, 1>(first, keys, half * kLanes + j, j);
    for (int r = 0; r < Together; ++r) {
      vec lanes[kLanes];
      for (int i = 0; i < kLanes; ++i) lanes[i] = Arch::load(sum_of(r, i));
      Arch::store(floats(at_.scores) + arch::c_offset(first + r, half), Arch::sums(lanes));
    }
  }
  float* sum_of(int r, int j) const { return floats(at_.sums) + (r * kLanes + j) * kLanes; }

  template <int Together, int Keys, class From>
  FA_INLINE void dot_keys(int first, const From& keys, int key, int j) {
    const std::int64_t depth = at_.depth;
    const float* q = floats(at_.queries) + first * depth;
    vec sum[Keys][Together];
    for (int k = 0; k < Keys; ++k)
      for (int i = 0; i < Together; ++i) sum[k][i] = Arch::zero();
    for_vecs(0, shape_.depth, [&](std::int64_t d, std::int64_t n) __attribute__((always_inline)) {
      vec x[Keys];
      for (int k = 0; k < Keys; ++k) {
        if (first == 0) fetch_ahead(keys, key + k, d);
        x[k] = load_some<Arch>(keys[key + k] + d, n);
      }
      for (int i = 0; i < Together; ++i) {
        const vec y = Arch::load(q + i * depth + d);
        for (int k = 0; k < Keys; ++k) sum[k][i] = Arch::fma(y, x[k], sum[k][i]);
      }
    });
    for (int k = 0; k < Keys; ++k)
      for (int i = 0; i < Together; ++i) Arch::store(sum_of(i, j + k), sum[k][i]);
  }

  // P of the step; says whether some pair is hidden.
  bool soften(std::int64_t key, int n) {
    bool part = n < kBlock;
    for (int r = 0; r < rows() && !part; ++r)
      part = state_.hidden[r] || key < state_.visible[r].begin || key + kBlock > state_.visible[r].end;
    const SoftmaxStep<Arch, arch::Fp32> step{.state = &state_,
                                             .s = floats(at_.scores),
                                             .p = scratch_ + at_.weights,
                                             .p_plane = 0,
                                             .raises = &raises_,
                                             .key = key,
                                             .keys = shape_.keys,
                                             .mask_key = shape_.overlay.key,
                                             .scale = shape_.scale * kLog2E,
                                             .begin = 0,
                                             .index = 0,
                                             .half_scores = shape_.half_scores};
    for (int r = 0; r < rows(); ++r)
      part ? step.general()(r) : shape_.half_scores ? step.halves()(r) : step.plain()(r);
    if (raises_.rows)
      settle<Arch, arch::Fp32>(raises_, state_.m, step.p, 0, 0, floats(at_.outputs), at_.columns);
    return part;
  }

  // P of row r, sixteen keys.
  const float* weights(int r, int half) const { return floats(at_.weights + half * kGroupBytes + r * kLine); }

  // O of the rows from r on += P·V over n keys. In a part step an infinity or NaN of V must not meet the zero
  // weight of a hidden pair: such elements are left out and added for the rows that see them.
  template <bool Part, int Together, class From>
  void weigh_rows(int r, const From& values, std::int64_t first, int n) {
    constexpr int kColumns = kSums<Arch> / Together;
    constexpr std::int64_t kStep = kColumns * kLanes;
    const std::int64_t end = shape_.value_depth;
    bool nonfinite = false;
    std::int64_t c = 0;
    for (; c + kStep <= end; c += kStep)
      nonfinite |= weigh_columns<Part, Together, kColumns>(r, values, c, kLanes, n);
    for_vecs(c, end, [&](std::int64_t column, std::int64_t channels) __attribute__((always_inline)) {
      nonfinite |= weigh_columns<Part, Together, 1>(r, values, column, channels, n);
    });
    if (nonfinite) weigh_nonfinite(r, Together, values, first, n);
  }
  // `channels` of each of the columns from c on.
  template <bool Part, int Together, int Columns, class From>
  FA_INLINE bool weigh_columns(int r, const From& values, std::int64_t c, std::int64_t channels, int n) {
    bool nonfinite = false;
    vec sum[Columns][Together];
    const auto o = [&](int i, int column) __attribute__((always_inline)) {
      return floats(at_.outputs) + o_offset(r + i, c + column * kLanes);
    };
    for (int column = 0; column < Columns; ++column)
      for (int i = 0; i < Together; ++i) sum[column][i] = Arch::load(o(i, column));
    for (int begin = 0; begin < n; begin += kLanes) {
      const float* p = weights(r, begin / kLanes);
      const int here = static_cast<int>(lesser(kLanes, n - begin));
      for (int j = 0; j < here; ++j)
        for (int column = 0; column < Columns; ++column) {
          const std::int64_t at = c + column * kLanes;
          if (r == 0) fetch_ahead(values, begin + j, at);
          vec x = load_some<Arch>(values[begin + j] + at, channels);
          if constexpr (Part) x = clear_nonfinite<Arch>(x, nonfinite);
          for (int i = 0; i < Together; ++i)
            sum[column][i] = Arch::fma(Arch::set(p[i * kLanes + j]), x, sum[column][i]);
        }
    }
    for (int column = 0; column < Columns; ++column)
      for (int i = 0; i < Together; ++i) Arch::store(o(i, column), sum[column][i]);
    return nonfinite;
  }

  template <class From>
  [[gnu::noinline]] void weigh_nonfinite(int first_row, int together, const From& values, std::int64_t first,
                                         int n) {
    for (int r = first_row; r < first_row + together; ++r)
      for (int j = 0; j < n; ++j) {
        if (!state_.sees(r, first + j, shape_.overlay.key)) continue;
        for (std::int64_t c = 0; c < shape_.value_depth; ++c) {
          const float v = to_float(values[j][c]), p = weights(r, j / kLanes)[j % kLanes];
          if (v - v != 0.0f) floats(at_.outputs)[o_offset(r, c)] += p * v;
        }
      }
  }

  const ForwardArgs& a_;
  const Shape& shape_;
  const ForwardTask& t_;
  const DecodeLayout<Arch, T> at_;
  std::byte* const scratch_;
  State& state_;
  const KeyRows<Arch, T, float> keys_, values_;
  const bool value_in_key_;
  Raises raises_;
};

template <class Arch, class T>
inline constexpr Forward kDecode{
    .scratch_bytes = [](const Shape& shape, const Blocking&) { return DecodeLayout<Arch, T>(shape).bytes; },
    .run = [](const ForwardArgs& args, const ForwardTask& task,
              std::byte* scratch) { DecodeRun<Arch, T>(args, task, scratch).run(); },
    .merge = merge_partials<Arch, T>,
    .rate = block_rate<Arch, arch::Fp32>,
};

}  // namespace fusion_attention::kernels
