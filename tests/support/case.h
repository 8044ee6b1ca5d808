// A Problem with memory: inputs from a seed, every tensor against a guard page, outputs poisoned, and every
// byte that a run must not change remembered.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <deque>
#include <random>
#include <utility>
#include <vector>

#include "base/half.h"
#include "fusion_attention/fusion_attention.h"
#include "support/guarded.h"

namespace fusion_attention::testing {

enum class Fill { normal, large, growing, tiny, constant, extreme };

// How tensors lie in memory: contiguous [B, N, S, D] that end at the guard page; [B, S, N, D] with channels
// three apart; or, each for itself, any order of the axes, padding, spread channels, broadcast inputs,
// against the guard behind or in front.
enum class Layout { contiguous, spread, random };

inline std::byte* element(const TensorView& v, std::int64_t b, std::int64_t h, std::int64_t r,
                          std::int64_t c) {
  return static_cast<std::byte*>(v.data) +
         (b * v.stride[0] + h * v.stride[1] + r * v.stride[2] + c * v.stride[3]) * size_of(v.dtype);
}
inline double read_number(Dtype dtype, const std::byte* p) {
  if (dtype == Dtype::float32) {
    float x;
    std::memcpy(&x, p, 4);
    return x;
  }
  if (dtype == Dtype::int8) return static_cast<std::int8_t>(*p);
  std::uint16_t bits;
  std::memcpy(&bits, p, 2);
  return dtype == Dtype::float16 ? to_float(f16{bits}) : to_float(bf16{bits});
}
inline double read(const TensorView& v, std::int64_t b, std::int64_t h, std::int64_t r, std::int64_t c) {
  return read_number(v.dtype, element(v, b, h, r, c));
}
inline void write(const TensorView& v, std::int64_t b, std::int64_t h, std::int64_t r, std::int64_t c,
                  double value) {
  std::byte* p = element(v, b, h, r, c);
  const float x = static_cast<float>(value);
  if (v.dtype == Dtype::float32) {
    std::memcpy(p, &x, 4);
  } else if (v.dtype == Dtype::int8) {
    *p = std::isnan(value) ? std::byte{0x55} : static_cast<std::byte>(static_cast<std::int8_t>(value));
  } else {
    const std::uint16_t bits = v.dtype == Dtype::float16 ? from_float<f16>(x).bits : from_float<bf16>(x).bits;
    std::memcpy(p, &bits, 2);
  }
}

class Case {
 public:
  Case(Problem problem, std::uint64_t seed, Fill fill, Layout layout)
      : problem(std::move(problem)), random_(seed), layout_(layout) {
    Problem& p = this->problem;
    const bool backward = p.pass == Pass::backward;
    for (TensorView* v : {&p.query, &p.key, &p.value}) allocate(*v, /*input=*/true);
    allocate(p.output, /*input=*/false);
    if (backward) {
      allocate(p.output_gradient, true);
      for (TensorView* v : {&p.query_gradient, &p.key_gradient, &p.value_gradient}) allocate(*v, false);
    }
    fill_inputs(fill);
    p.statistics.max = reinterpret_cast<float*>(region(entries() * 4));
    p.statistics.sum = reinterpret_cast<float*>(region(entries() * 4));
    make_overlay();
    make_scores();
    make_output_scaling();
  }

  // The backward's inputs from the forward: its output and statistics. `whole` > 1: as if the row were a
  // shard of one whose sum is that many times larger, which is what ring attention passes.
  void forward_first(double whole) {
    Problem forward = problem;
    forward.pass = Pass::forward;
    run_reference(forward);
    for (std::int64_t e = 0; e < entries(); ++e) problem.statistics.sum[e] *= static_cast<float>(whole);
  }

  // A NaN or an infinity into one row of an input, which some rows or keys see and some do not. A route that
  // splits operands makes a visible infinity NaN (0·inf of a plane), where one product would keep its sign:
  // no infinities there.
  void plant_nonfinite(bool infinities) {
    const Problem& p = problem;
    if (p.sequences.empty()) return;
    const Sequence& s = p.sequences[random_() % p.sequences.size()];
    const bool in_key = random_() % 4 != 0;
    const TensorView& view = in_key                                      ? random_() % 2 ? p.value : p.key
                             : p.pass == Pass::backward && random_() % 2 ? p.output_gradient
                                                                         : p.query;
    const std::int64_t count = in_key ? s.keys : s.rows;
    if (count == 0 || view.heads() == 0) return;
    const auto below = [&](std::int64_t n) {
      return static_cast<std::int64_t>(random_() % static_cast<std::uint64_t>(n));
    };
    const std::int64_t row = (in_key ? s.key : s.row) + below(count);
    write(view, s.batch, below(view.heads()), row, below(view.channels()),
          infinities && random_() % 2 ? INFINITY : NAN);
  }

  // Every element of the outputs becomes a NaN that was not computed, and all memory is remembered.
  void poison_outputs() {
    for (const TensorView* v : outputs())
      each(*v, [&](auto b, auto h, auto r, auto c) { write(*v, b, h, r, c, NAN); });
    if (problem.pass == Pass::forward && problem.statistics.max) {
      std::fill_n(problem.statistics.max, entries(), NAN);
      std::fill_n(problem.statistics.sum, entries(), NAN);
    }
    for (const auto& [gradient, count] : score_gradients())
      if (gradient) std::fill_n(gradient, count, NAN);
    for (Region& r : regions_) r.before.assign(r.memory.head(), r.memory.head() + r.memory.size());
  }

  // Bytes that changed since, other than elements of the outputs: of inputs, of padding, around the tensors.
  std::int64_t trespassed() {
    for (const TensorView* v : outputs())
      each(*v, [&](auto b, auto h, auto r, auto c) { forgive(element(*v, b, h, r, c), size_of(v->dtype)); });
    if (problem.pass == Pass::forward && problem.statistics.max)
      for (float* s : {problem.statistics.max, problem.statistics.sum})
        forgive(reinterpret_cast<std::byte*>(s), entries() * 4);
    for (const auto& [gradient, count] : score_gradients())
      if (gradient) forgive(reinterpret_cast<std::byte*>(gradient), count * 4);
    std::int64_t changed = 0;
    for (Region& r : regions_)
      for (std::size_t i = 0; i < r.before.size(); ++i) changed += r.before[i] != r.memory.head()[i];
    return changed;
  }

  std::int64_t entries() const {
    return problem.query.batches() * problem.query.heads() * problem.query.rows() * problem.statistics.copies;
  }

  Problem problem;

 private:
  struct Region {
    explicit Region(std::int64_t bytes) : memory(static_cast<std::size_t>(bytes)) {}
    Guarded memory;
    std::vector<std::byte> before;
  };

  std::vector<const TensorView*> outputs() const {
    if (problem.pass == Pass::forward) return {&problem.output};
    return {&problem.query_gradient, &problem.key_gradient, &problem.value_gradient};
  }

  // Those of bias and sink, and how many numbers each holds; null where there is none.
  std::array<std::pair<float*, std::int64_t>, 2> score_gradients() const {
    if (problem.pass == Pass::forward) return {};
    return {{{problem.bias.gradient, problem.bias.elements}, {problem.sink.gradient, problem.query.heads()}}};
  }

  // Memory of which a byte that nobody wrote is part of a NaN.
  std::byte* region(std::int64_t bytes, bool in_front = false) {
    Guarded& memory = regions_.emplace_back(bytes).memory;
    std::memset(memory.head(), 0xff, memory.size());
    return in_front ? memory.head() : memory.tail(static_cast<std::size_t>(bytes));
  }

  void forgive(const std::byte* from, std::int64_t bytes) {
    for (Region& r : regions_)
      if (from >= r.memory.head() && from < r.memory.head() + r.memory.size()) {
        std::memcpy(r.before.data() + (from - r.memory.head()), from, static_cast<std::size_t>(bytes));
        return;
      }
  }

  bool one_in(unsigned n) { return layout_ == Layout::random && random_() % n == 0; }

  void allocate(TensorView& v, bool input) {
    constexpr std::array<std::array<std::size_t, 4>, 5> kOrders{
        {{0, 1, 2, 3}, {0, 2, 1, 3}, {2, 0, 1, 3}, {1, 0, 2, 3}, {0, 1, 3, 2}}};
    const auto& order = kOrders[layout_ == Layout::contiguous ? 0
                                : layout_ == Layout::spread   ? 1
                                                              : random_() % (one_in(12) ? 5 : 4)];
    std::int64_t stride = layout_ == Layout::spread ? 3 : one_in(20) ? 2 : 1, bytes = size_of(v.dtype);
    for (std::size_t at = 4; at-- > 0;) {
      const std::size_t axis = order[at];
      v.stride[axis] = stride;
      if (input && axis < 3 && one_in(16)) {
        v.stride[axis] = 0;
        continue;
      }
      stride *= std::max<std::int64_t>(v.shape[axis], 1);
      if (one_in(8)) stride += 1 + static_cast<std::int64_t>(random_() % 9);
    }
    for (std::size_t axis = 0; axis < 4; ++axis)
      bytes += std::max<std::int64_t>(v.shape[axis] - 1, 0) * v.stride[axis] * size_of(v.dtype);
    v.data = region(bytes, one_in(2));
  }

  template <class Visit>
  static void each(const TensorView& v, Visit visit) {
    for (std::int64_t b = 0; b < v.batches(); ++b)
      for (std::int64_t h = 0; h < v.heads(); ++h)
        for (std::int64_t r = 0; r < v.rows(); ++r)
          for (std::int64_t c = 0; c < v.channels(); ++c) visit(b, h, r, c);
  }

  void fill_inputs(Fill fill) {
    const Problem& p = problem;
    std::normal_distribution<double> normal;
    const auto spread_by = [&](const TensorView& v, auto spread) {
      each(v, [&](auto b, auto h, auto r, auto c) { write(v, b, h, r, c, spread(r) * normal(random_)); });
    };
    const auto even = [](double spread) { return [spread](std::int64_t) { return spread; }; };
    const double extreme = p.query.dtype == Dtype::float16 ? 3e3 : 1e13;
    const double spread = fill == Fill::large ? 8 : fill == Fill::tiny ? 1e-3 : 1;
    spread_by(p.query, even(fill == Fill::extreme ? extreme : spread));
    if (fill == Fill::constant) each(p.query, [&](auto... at) { write(p.query, at..., 0.25); });
    // Scores that grow along the keys, so that the running maximum moves at every step.
    const auto growing = [&](std::int64_t r) {
      return 0.05 + 12.0 * static_cast<double>(r) / static_cast<double>(p.key.rows());
    };
    if (fill == Fill::growing)
      spread_by(p.key, growing);
    else
      spread_by(p.key, even(fill == Fill::extreme ? extreme : 1));
    spread_by(p.value, even(spread));
    if (p.pass == Pass::backward) spread_by(p.output_gradient, even(1));
  }

  // A described mask (strides, no memory) gets bytes: noise that hides nothing, some or most; tiles of 32 ×
  // 32 that are hidden, kept or noise; or documents, which see themselves and some of which see nothing.
  void make_overlay() {
    Overlay& o = problem.overlay;
    if (!o) return;
    std::int64_t sizes[] = {problem.query.batches(), problem.query.heads(), problem.query.rows(),
                            problem.key.rows()};
    std::int64_t bytes = 1;
    for (std::size_t axis = 0; axis < 4; ++axis) {
      bytes += std::max<std::int64_t>(sizes[axis] - 1, 0) * o.stride[axis];
      if (o.stride[axis] == 0) sizes[axis] = std::min<std::int64_t>(sizes[axis], 1);
    }
    auto* data = reinterpret_cast<std::uint8_t*>(region(bytes));
    const unsigned hidden = std::array<unsigned, 4>{0, 10, 50, 95}[random_() % 4];
    const std::uint64_t form = random_() % 4, salt = random_();
    const auto documents = static_cast<std::int64_t>(2 + random_() % 4);
    // 0, 1 or 2 for every thing of a number, at random but the same for the same.
    const auto toss = [&](std::int64_t number) {
      return (salt ^ static_cast<std::uint64_t>(number + 1) * 0x9E3779B97F4A7C15u) % 1021 % 3;
    };
    const auto hides = [&](std::int64_t plane, std::int64_t i, std::int64_t j) {
      const std::int64_t document = i * documents / sizes[2];
      if (form == 0) return document != j * documents / sizes[3] || toss(plane * documents + document) == 0;
      const std::uint64_t tile = form == 1 ? toss((plane * 64 + i / 32) * 64 + j / 32) : 2;
      return tile < 2 ? tile == 0 : random_() % 100 < hidden;
    };
    std::memset(data, 0, static_cast<std::size_t>(bytes));
    for (std::int64_t b = 0; b < sizes[0]; ++b)
      for (std::int64_t n = 0; n < sizes[1]; ++n)
        for (std::int64_t i = 0; i < sizes[2]; ++i)
          for (std::int64_t j = 0; j < sizes[3]; ++j)
            if (hides(b * sizes[1] + n, i, j))
              data[b * o.stride[0] + n * o.stride[1] + i * o.stride[2] + j * o.stride[3]] =
                  static_cast<std::uint8_t>(1 + random_() % 255);
    o.data = data;
  }

  TensorView numbers(Dtype dtype, std::int64_t count) {
    TensorView v{.dtype = dtype, .shape = {1, 1, 1, count}, .stride = {0, 0, 0, 1}};
    v.data = region(count * size_of(dtype), one_in(2));
    return v;
  }

  // Described bias, dropout bits and sinks get memory of their own, and gradients where there is a backward.
  void make_scores() {
    Problem& p = problem;
    std::normal_distribution<double> normal;
    if (p.bias) {
      const TensorView data = numbers(p.bias.dtype, p.bias.elements);
      const double spread = std::array{0.1, 1.0, 1.0, 20.0}[random_() % 4];
      // −∞ is how many hide keys; a scale could make +∞ or NaN of it.
      const bool hides = p.bias.kind == BiasKind::dense && !p.bias.before_scale && random_() % 4 == 0;
      each(data, [&](auto... at) {
        write(data, at..., hides && random_() % 8 == 0 ? -INFINITY : spread * normal(random_));
      });
      p.bias.data = data.data;
      if (p.bias.gradient)
        p.bias.gradient = static_cast<float*>(numbers(Dtype::float32, p.bias.elements).data);
    }
    if (p.dropout.bits) {
      auto* bits = reinterpret_cast<std::uint8_t*>(region(p.dropout.bytes, one_in(2)));
      for (std::int64_t i = 0; i < p.dropout.bytes; ++i) bits[i] = static_cast<std::uint8_t>(random_());
      p.dropout.bits = bits;
    }
    if (p.sink) {
      const TensorView data = numbers(Dtype::float32, p.query.heads());
      each(data, [&](auto... at) { write(data, at..., 3 * normal(random_)); });
      p.sink.data = static_cast<const float*>(data.data);
      if (p.sink.gradient)
        p.sink.gradient = static_cast<float*>(numbers(Dtype::float32, p.query.heads()).data);
    }
  }

  // Described scales of results get numbers: some that saturate, now and then a negative one or zero.
  void make_output_scaling() {
    OutputScaling& scaling = problem.output_scaling;
    if (!scaling) return;
    std::normal_distribution<double> normal;
    const double spread = std::array{3.0, 40.0, 40.0, 400.0}[random_() % 4];
    for (const float** which : {&scaling.scale, &scaling.offset}) {
      if (!*which) continue;
      const TensorView data = numbers(Dtype::float32, scaling.channels);
      each(data, [&](auto... at) { write(data, at..., random_() % 20 == 0 ? 0 : spread * normal(random_)); });
      *which = static_cast<const float*>(data.data);
    }
  }

  std::mt19937_64 random_;
  Layout layout_;
  std::deque<Region> regions_;
};

}  // namespace fusion_attention::testing
