// A Problem with memory: inputs from a seed, every tensor against a guard page, outputs poisoned.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <random>
#include <vector>

#include "base/half.h"
#include "fusion_attention/fusion_attention.h"
#include "support/guarded.h"

namespace fusion_attention::testing {

enum class Fill { normal, large, growing, tiny, constant };

inline std::byte* element(const TensorView& v, std::int64_t b, std::int64_t h, std::int64_t r,
                          std::int64_t c) {
  return static_cast<std::byte*>(v.data) +
         (b * v.stride[0] + h * v.stride[1] + r * v.stride[2] + c * v.stride[3]) * size_of(v.dtype);
}
inline double read(const TensorView& v, std::int64_t b, std::int64_t h, std::int64_t r, std::int64_t c) {
  const std::byte* p = element(v, b, h, r, c);
  if (v.dtype == Dtype::float32) {
    float x;
    std::memcpy(&x, p, 4);
    return x;
  }
  std::uint16_t bits;
  std::memcpy(&bits, p, 2);
  return v.dtype == Dtype::float16 ? to_float(f16{bits}) : to_float(bf16{bits});
}
inline void write(const TensorView& v, std::int64_t b, std::int64_t h, std::int64_t r, std::int64_t c,
                  double value) {
  std::byte* p = element(v, b, h, r, c);
  const float x = static_cast<float>(value);
  if (v.dtype == Dtype::float32) {
    std::memcpy(p, &x, 4);
  } else {
    const std::uint16_t bits = v.dtype == Dtype::float16 ? from_float<f16>(x).bits : from_float<bf16>(x).bits;
    std::memcpy(p, &bits, 2);
  }
}

class Case {
 public:
  // `order` is the memory order of the axes, outermost first; `channel_stride` spreads channels apart.
  Case(Problem problem, std::uint64_t seed, Fill fill, std::array<int, 4> order, std::int64_t channel_stride)
      : problem(std::move(problem)), random_(seed), order_(order), channel_stride_(channel_stride) {
    Problem& p = this->problem;
    allocate(p.query), allocate(p.key), allocate(p.value), allocate(p.output);
    const bool backward = p.pass == Pass::backward;
    if (backward)
      allocate(p.output_gradient), allocate(p.query_gradient), allocate(p.key_gradient),
          allocate(p.value_gradient);
    const double spread = fill == Fill::large ? 8 : fill == Fill::tiny ? 1e-3 : 1;
    fill_view(p.query, spread, fill == Fill::constant), fill_view(p.key, 1, false),
        fill_view(p.value, spread, false);
    if (fill == Fill::growing) grow_keys();
    if (backward) fill_view(p.output_gradient, 1, false);
    const std::int64_t entries = p.query.batches() * p.query.heads() * p.query.rows() * p.statistics.copies;
    p.statistics.max = floats(entries), p.statistics.sum = floats(entries);
    make_overlay();
  }

  // The backward's inputs from the forward: its output and statistics. `whole` > 1: as if the row were a
  // shard of one whose sum is that many times larger, which is what ring attention passes.
  void forward_first(double whole) {
    Problem forward = problem;
    forward.pass = Pass::forward;
    run_reference(forward);
    const std::int64_t entries =
        problem.query.batches() * problem.query.heads() * problem.query.rows() * problem.statistics.copies;
    for (std::int64_t e = 0; e < entries; ++e) problem.statistics.sum[e] *= static_cast<float>(whole);
  }

  // A NaN or an infinity into a key or value row, which some queries see and some do not. A route that splits
  // operands makes a visible infinity NaN (0·inf of a plane), where one product would keep its sign: no
  // infinities there.
  void plant_nonfinite(bool infinities) {
    const Problem& p = problem;
    if (p.sequences.empty() || p.sequences[0].keys == 0) return;
    const Sequence& s = p.sequences[0];
    const std::int64_t key = s.key + std::uniform_int_distribution<std::int64_t>(0, s.keys - 1)(random_);
    const TensorView& view = random_() % 2 ? p.value : p.key;
    write(view, s.batch, 0, key, 0, infinities && random_() % 2 ? INFINITY : NAN);
  }

  // Every byte of the outputs becomes a NaN that was not computed.
  void poison_outputs() {
    if (problem.pass == Pass::backward) {
      poison(problem.query_gradient), poison(problem.key_gradient), poison(problem.value_gradient);
      return;
    }
    poison(problem.output);
    const std::int64_t entries =
        problem.query.batches() * problem.query.heads() * problem.query.rows() * problem.statistics.copies;
    std::fill_n(problem.statistics.max, entries, NAN);
    std::fill_n(problem.statistics.sum, entries, NAN);
  }

  Problem problem;

 private:
  void allocate(TensorView& v) {
    std::int64_t stride = channel_stride_;
    for (int at = 3; at >= 0; --at) {
      const auto axis = static_cast<std::size_t>(order_[static_cast<std::size_t>(at)]);
      v.stride[axis] = stride;
      stride *= std::max<std::int64_t>(v.shape[axis], 1);
    }
    std::int64_t bytes = size_of(v.dtype);
    for (std::size_t axis = 0; axis < 4; ++axis)
      bytes += std::max<std::int64_t>(v.shape[axis] - 1, 0) * v.stride[axis] * size_of(v.dtype);
    memory_.emplace_back(static_cast<std::size_t>(bytes));
    v.data = memory_.back().tail(static_cast<std::size_t>(bytes));
  }
  float* floats(std::int64_t count) {
    memory_.emplace_back(static_cast<std::size_t>(count) * sizeof(float));
    return memory_.back().tail<float>(static_cast<std::size_t>(count) * sizeof(float));
  }
  template <class Visit>
  static void each(const TensorView& v, Visit visit) {
    for (std::int64_t b = 0; b < v.batches(); ++b)
      for (std::int64_t h = 0; h < v.heads(); ++h)
        for (std::int64_t r = 0; r < v.rows(); ++r)
          for (std::int64_t c = 0; c < v.channels(); ++c) visit(b, h, r, c);
  }
  void fill_view(const TensorView& v, double spread, bool constant) {
    std::normal_distribution<double> normal;
    each(v, [&](auto b, auto h, auto r, auto c) {
      write(v, b, h, r, c, constant ? 0.25 : spread * normal(random_));
    });
  }
  // Scores that grow along the keys, so that the running maximum moves at every step.
  void grow_keys() {
    const TensorView& k = problem.key;
    each(k, [&](auto b, auto h, auto r, auto c) {
      write(k, b, h, r, c,
            read(k, b, h, r, c) * (0.05 + 12.0 * static_cast<double>(r) / static_cast<double>(k.rows())));
    });
  }
  // A described mask (strides, no memory) gets random bytes: all kept, some hidden, most hidden, by draw.
  void make_overlay() {
    Overlay& o = problem.overlay;
    if (!o) return;
    const std::int64_t sizes[] = {problem.query.batches(), problem.query.heads(), problem.query.rows(),
                                  problem.key.rows()};
    std::int64_t bytes = 1;
    for (std::size_t axis = 0; axis < 4; ++axis)
      bytes += std::max<std::int64_t>(sizes[axis] - 1, 0) * o.stride[axis];
    memory_.emplace_back(static_cast<std::size_t>(bytes));
    auto* data = memory_.back().tail<std::uint8_t>(static_cast<std::size_t>(bytes));
    const unsigned hidden = std::array<unsigned, 4>{0, 10, 50, 95}[random_() % 4];
    for (std::int64_t i = 0; i < bytes; ++i)
      data[i] = random_() % 100 < hidden ? static_cast<std::uint8_t>(1 + random_() % 255) : 0;
    o.data = data;
  }
  static void poison(const TensorView& v) {
    each(v, [&](auto b, auto h, auto r, auto c) { write(v, b, h, r, c, NAN); });
  }

  std::mt19937_64 random_;
  std::array<int, 4> order_;
  std::int64_t channel_stride_;
  std::deque<Guarded> memory_;
};

}  // namespace fusion_attention::testing
