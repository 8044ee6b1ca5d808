// One sequence handed straight to a forward or decode row of kernels.def, without the library around it, and
// the answer in plain fp64 loops. Every operand, the mask and the scratch end at a guard page; strides are
// odd multiples of the element; scratch starts full of NaN.
#pragma once

#include <gtest/gtest.h>

#include <cfloat>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "arch/cpu.h"
#include "arch/float_mode.h"
#include "base/half.h"
#include "kernels/kernels.h"
#include "support/bound.h"
#include "support/guarded.h"

namespace fusion_attention::testing {

// Rows whose instructions execute here, announced by CPUID or not.
inline std::vector<kernels::Row> executable_rows(std::initializer_list<kernels::Algorithm> algorithms) {
  std::vector<kernels::Row> out;
  for (const kernels::Row& row : kernels::rows())
    for (const kernels::Algorithm algorithm : algorithms) {
      bool runs = true;
      for (const arch::Isa isa : arch::kIsas)
        if (std::strcmp(row.arch, arch::name(isa)) == 0) runs = arch::executes(isa);
      if (runs && row.algorithm == algorithm) out.push_back(row);
    }
  return out;
}

inline float read_element(Dtype dtype, const std::byte* p) {
  const auto as = [&]<class T>(T x) {
    std::memcpy(&x, p, sizeof x);
    return to_float(x);
  };
  return dtype == Dtype::float32 ? as(float{}) : dtype == Dtype::float16 ? as(f16{}) : as(bf16{});
}
inline void write_element(Dtype dtype, std::byte* p, float value) {
  const auto as = [&](auto x) { std::memcpy(p, &x, sizeof x); };
  if (dtype == Dtype::float32) return as(value);
  dtype == Dtype::float16 ? as(from_float<f16>(value)) : as(from_float<bf16>(value));
}

// heads × rows × channels in guarded memory.
class Plane {
 public:
  Plane(Dtype dtype, std::int64_t heads, std::int64_t rows, std::int64_t channels, std::int64_t padding)
      : dtype_(dtype),
        size_(dtype == Dtype::float32 ? 4 : 2),
        rows_(rows),
        row_((channels + padding) * size_) {
    const std::int64_t used = heads * rows > 0 ? (heads * rows - 1) * row_ + channels * size_ : 0;
    memory_ = std::make_unique<Guarded>(static_cast<std::size_t>(used));
    operand = {memory_->tail(static_cast<std::size_t>(used)), rows_ * row_, row_};
  }
  float get(std::int64_t n, std::int64_t i, std::int64_t c) const {
    return read_element(dtype_, at(n, i, c));
  }
  void set(std::int64_t n, std::int64_t i, std::int64_t c, float x) { write_element(dtype_, at(n, i, c), x); }
  std::byte* at(std::int64_t n, std::int64_t i, std::int64_t c) const {
    return operand.data + n * operand.head + i * operand.row + c * size_;
  }
  kernels::Operand operand;

 private:
  Dtype dtype_;
  std::int64_t size_, rows_, row_;
  std::unique_ptr<Guarded> memory_;
};

class KernelCase {
 public:
  KernelCase(const kernels::Row& row, const kernels::Shape& shape, const kernels::Blocking& blocking,
             std::int64_t kv_heads, std::uint64_t seed)
      : row_(row),
        heads_(kv_heads * shape.group),
        kv_heads_(kv_heads),
        q(row.dtype, heads_, shape.rows, shape.depth, 1),
        k(row.dtype, kv_heads, shape.keys, shape.depth, 3),
        v(row.dtype, kv_heads, shape.keys, shape.value_depth, 0),
        o(row.dtype, heads_, shape.rows, shape.value_depth, 1),
        max(static_cast<std::size_t>(heads_ * shape.rows * kCopies), NAN),
        sum(max) {
    args_.shape = shape;
    args_.blocking = blocking;
    args_.query = q.operand, args_.output = o.operand;
    args_.key.leading = {.rows = k.operand, .channels = shape.depth, .dtype = row.dtype};
    args_.value.leading = {.rows = v.operand, .channels = shape.value_depth, .dtype = row.dtype};
    args_.statistics = {max.data(), sum.data(), shape.rows, 1, kCopies};
    std::mt19937_64 random(seed);
    std::normal_distribution<float> normal;
    const auto draw = [&](Plane& plane, std::int64_t heads, std::int64_t rows, std::int64_t channels) {
      for (std::int64_t n = 0; n < heads; ++n)
        for (std::int64_t i = 0; i < rows; ++i)
          for (std::int64_t c = 0; c < channels; ++c) plane.set(n, i, c, normal(random));
    };
    draw(q, heads_, shape.rows, shape.depth);
    draw(k, kv_heads, shape.keys, shape.depth);
    draw(v, kv_heads, shape.keys, shape.value_depth);
  }

  // Hides pairs of (query head, row, key); key stride 1, the last byte at a guard page.
  void hide(const std::function<bool(std::int64_t, std::int64_t, std::int64_t)>& hidden) {
    const kernels::Shape& s = args_.shape;
    const auto bytes = static_cast<std::size_t>(heads_ * s.rows * s.keys);
    mask_ = std::make_unique<Guarded>(bytes);
    auto* data = mask_->tail<std::uint8_t>(bytes);
    args_.shape.overlay = {data, s.rows * s.keys, s.keys, 1};
    for (std::int64_t n = 0; n < heads_; ++n)
      for (std::int64_t i = 0; i < s.rows; ++i)
        for (std::int64_t j = 0; j < s.keys; ++j)
          data[(n * s.rows + i) * s.keys + j] = hidden(n, i, j) ? static_cast<std::uint8_t>(1 + j % 255) : 0;
  }

  // The whole sequence, super-block by super-block, keys in `splits` ranges that are no multiples of a step.
  void run(int splits = 1) { run(0, args_.shape.rows, splits); }
  void run(std::int64_t row_begin, std::int64_t row_end, int splits = 1) {
    const arch::FloatMode mode;
    const kernels::Shape& s = args_.shape;
    for (std::int64_t head = 0; head < kv_heads_; ++head)
      for (std::int64_t r = row_begin; r < row_end; r += args_.blocking.rows) {
        const std::int64_t end = std::min(row_end, r + args_.blocking.rows);
        const std::int64_t record = s.group * (end - r) * (s.value_depth + 2);
        std::vector<float> partials(static_cast<std::size_t>(record * splits), NAN);
        for (int split = 0; split < splits; ++split)
          task({.kv_head = head,
                .row_begin = r,
                .row_end = end,
                .key_begin = s.keys * split / splits,
                .key_end = s.keys * (split + 1) / splits,
                .partial = splits > 1 ? partials.data() + record * split : nullptr});
        if (splits > 1)
          row_.forward->merge(args_, {.kv_head = head,
                                      .row_begin = r,
                                      .row_end = end,
                                      .partials = partials.data(),
                                      .splits = splits});
      }
  }

  bool visible(std::int64_t n, std::int64_t i, std::int64_t j) const {
    const kernels::Shape& s = args_.shape;
    const Interval sees = s.band.row(s.row0 + i, s.key0 + s.keys);
    const kernels::OverlayPlane& m = s.overlay;
    return j + s.key0 >= sees.begin && j + s.key0 < sees.end &&
           !(m.data && m.data[n * m.head + i * m.row + j * m.key]);
  }

  // Every output and statistic within the bound that support/bound.h derives; a visible NaN or infinity must
  // give something that is not finite.
  void expect_right() const {
    for (std::int64_t n = 0; n < heads_; ++n)
      for (std::int64_t i = 0; i < args_.shape.rows; ++i) {
        expect_row(n, i);
        if (::testing::Test::HasFailure()) return;
      }
  }

  std::string text() const {
    const kernels::Shape& s = args_.shape;
    const kernels::Blocking& b = args_.blocking;
    char line[300];
    std::snprintf(line, sizeof line,
                  "%s rows=%ld keys=%ld depth=%ld value_depth=%ld group=%ld kv_heads=%ld scale=%g "
                  "band=%ld,%ld,%ld,%ld origin=%ld,%ld overlay=%d blocking=%d,%d,%d",
                  row_.name, long(s.rows), long(s.keys), long(s.depth), long(s.value_depth), long(s.group),
                  long(kv_heads_), double(s.scale), long(s.band.lo), long(s.band.hi), long(s.band.prefix),
                  long(s.band.block), long(s.row0), long(s.key0), s.overlay.data != nullptr, b.rows, b.keys,
                  b.round_trip);
    return line;
  }

  std::int64_t entry(std::int64_t n, std::int64_t i) const { return (n * args_.shape.rows + i) * kCopies; }
  kernels::Shape& shape() { return args_.shape; }
  kernels::ForwardArgs& args() { return args_; }

 private:
  static constexpr std::int64_t kCopies = 8;

  void task(const kernels::ForwardTask& t) {
    const std::size_t bytes = row_.forward->scratch_bytes(args_.shape, args_.blocking);
    ASSERT_EQ(bytes % 64, 0u);
    Guarded scratch(bytes);
    std::memset(scratch.tail(bytes), 0xff, bytes);
    row_.forward->run(args_, t, scratch.tail(bytes));
  }

  void expect_row(std::int64_t n, std::int64_t i) const {
    const kernels::Shape& s = args_.shape;
    const Route route =
        route_of(row_.algorithm == kernels::Algorithm::forward ? row_.arch : "scalar", row_.dtype);
    const std::int64_t kv = n / s.group;
    std::vector<double> p(static_cast<std::size_t>(s.keys));
    double top = -INFINITY, total = 0, error = 0;
    bool nan = false;
    for (std::int64_t j = 0; j < s.keys; ++j) {
      if (!visible(n, i, j)) continue;
      double dot = 0, size = 0;
      for (std::int64_t d = 0; d < s.depth; ++d) {
        const double x = double{q.get(n, i, d)} * double{k.get(kv, j, d)};
        dot += x, size += std::fabs(x);
      }
      const double score = double{s.scale} * dot;
      p[static_cast<std::size_t>(j)] = score;
      nan |= std::isnan(score);
      top = std::fmax(top, score);
      error = std::fmax(error,
                        std::fabs(double{s.scale}) * (route.products * double(s.depth) + 2) * kFlat * size +
                            2 * kFlat * std::fabs(score));
    }
    const bool empty = top == -INFINITY && !nan;
    for (std::int64_t j = 0; j < s.keys; ++j) {
      double& x = p[static_cast<std::size_t>(j)];
      x = visible(n, i, j) && !empty ? std::exp(x - top) : 0;
      total += x;
    }
    const double relative =
        2 * error + 2 * route.p_roundoff + route.exp_error + (route.products * double(s.keys) + 8) * kFlat;
    for (std::int64_t c = 0; c < s.value_depth; ++c) {
      double want = 0, size = 0;
      for (std::int64_t j = 0; j < s.keys && !empty; ++j) {
        if (!visible(n, i, j)) continue;
        const double x = p[static_cast<std::size_t>(j)] / total * double{v.get(kv, j, c)};
        want += x, size += std::fabs(x);
      }
      near("output", n, i, c, double{o.get(n, i, c)}, want,
           empty ? 0
                 : roundoff(row_.dtype) * std::fabs(want) + 2 * relative * size + half_spacing(row_.dtype) +
                       1e-36);
    }
    for (std::int64_t copy = 0; copy < kCopies; ++copy) {
      const auto at = static_cast<std::size_t>(entry(n, i) + copy);
      if (!nan)
        near("max", n, i, copy, double{max[at]}, empty ? -double{FLT_MAX} : top,
             empty ? 0 : error + 4 * kFlat * std::fabs(top));
      near("sum", n, i, copy, double{sum[at]}, empty ? 1 : total,
           empty ? 0
                 : 2 * total *
                       (2 * error + route.exp_error + 8 * kFlat * std::fabs(top) +
                        (double(s.keys) + 8) * kFlat));
    }
  }

  void near(const char* what, std::int64_t n, std::int64_t i, std::int64_t c, double got, double want,
            double bound) const {
    const bool right = std::isfinite(want) ? std::fabs(got - want) <= bound : !std::isfinite(got);
    EXPECT_TRUE(right) << what << "[" << n << ", " << i << ", " << c << "]: got " << got << ", want " << want
                       << " ± " << bound << "\n  " << text();
  }

  kernels::Row row_;
  std::int64_t heads_, kv_heads_;
  std::unique_ptr<Guarded> mask_;
  kernels::ForwardArgs args_;

 public:
  Plane q, k, v, o;
  std::vector<float> max, sum;
};

}  // namespace fusion_attention::testing
