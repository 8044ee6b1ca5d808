// What a kernel's answer is compared with: how the kernel computes, the fp64 scores of one head, the verdict.
#pragma once

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "ref/scores.h"
#include "support/case.h"

namespace fusion_attention::testing {

inline constexpr double kFlat = 0x1p-24;    // unit roundoff of fp32
inline constexpr double kFlush = 0x1p-126;  // below it fp32 is zero: in, out or both

inline double roundoff(Dtype dtype) {
  return dtype == Dtype::bfloat16 ? 0x1p-8 : dtype == Dtype::float16 ? 0x1p-11 : kFlat;
}

// The least spacing of a dtype, halved: what rounding costs where its numbers are denormal.
inline double half_spacing(Dtype dtype) {
  return dtype == Dtype::float16 ? 0x1p-25 : kFlush;
}

// How a kernel row computes, as far as its error depends on it.
struct Route {
  double products = 1;        // fp32 additions per term of a dot product: pairs of planes of split operands
  double dropped = 0;         // of Σ|a||b|: the pairs of planes that are left out
  double p_roundoff = kFlat;  // of P and dS on their way into the second products
  double exp_error = 2e-7;    // relative, of exp2
};

// One bf16 holds P to 2⁻⁸. Truncated planes hold eight bits each: two of them P to 2⁻¹⁴ (fp16), three to 2⁻²¹
// (fp32), where planes 1·2 and 2·1, each below 2⁻²¹ of the product, are left out.
inline Route route_of(const std::string& arch, Dtype dtype) {
  const bool tiles = arch.rfind("amx", 0) == 0;
  const bool rounded = tiles || arch == "avx512_bf16";
  if (dtype == Dtype::bfloat16) return {1, 0, rounded ? 0x1p-8 : kFlat, 7.6e-5};
  if (tiles && dtype == Dtype::float16) return {4, 0, 0x1p-14, 2e-7};
  if (tiles) return {6, 0x1p-20, 0x1p-21, 2e-7};
  return {};
}

// Compares what a run left in the outputs; remembers the worst ratio and the first element outside its bound.
class Verdict {
 public:
  explicit Verdict(const Route& how) : route(how) {}

  // `computed` bounds what the arithmetic may lose, `rounding` what the output's format loses after it: only
  // the former enters the ratio, or every result would seem to be at its limit.
  void element(const char* what, std::int64_t b, std::int64_t h, std::int64_t r, std::int64_t c, double got,
               double want, double computed, double rounding = 0) {
    const double excess = std::fabs(got - want) - rounding;
    const bool agree = std::isfinite(want) ? std::isfinite(got) && excess <= computed
                       : std::isnan(want)  ? std::isnan(got)
                                           : !std::isfinite(got);
    if (agree) {
      if (std::isfinite(want) && excess > 0) worst = std::fmax(worst, excess / computed);
      return;
    }
    if (failures++ == 0) {
      char text[240];
      std::snprintf(text, sizeof text, "%s[%ld, %ld, %ld, %ld]: got %.9g, want %.9g ± %.3g ± %.3g", what,
                    long(b), long(h), long(r), long(c), got, want, computed, rounding);
      first = text;
    }
  }

  Route route;
  double worst = 0;
  std::int64_t failures = 0;
  std::string first;
};

// The index of Bias::data that a pair reads: the data of a head are its last rows, so row r of `last` is
// local row rows − last + r, and an earlier row reads one of them at the same distance.
inline std::int64_t bias_index(const Problem& p, const Sequence& s, std::int64_t head, std::int64_t i,
                               std::int64_t j) {
  if (p.bias.kind != BiasKind::dense) return s.bias.base + head * s.bias.head;
  const std::int64_t last = p.bias.last_rows > 0 ? p.bias.last_rows : s.rows, first = s.rows - last;
  const std::int64_t row = i >= first ? i - first : i % last, column = j - i + first + row;
  return s.bias.base + head * s.bias.head + row * s.bias.row + column;
}

// What that number is multiplied by in the score of the pair.
inline double bias_factor(const Problem& p, const Sequence& s, std::int64_t i, std::int64_t j) {
  const double distance = static_cast<double>(std::abs(j - i + s.bias_shift));
  return p.bias.kind == BiasKind::dense      ? 1
         : p.bias.kind == BiasKind::distance ? -distance
                                             : -std::sqrt(distance);
}

inline double bias_of(const Problem& p, const Sequence& s, std::int64_t head, std::int64_t i,
                      std::int64_t j) {
  TensorView numbers{.data = const_cast<void*>(p.bias.data), .dtype = p.bias.dtype, .stride = {0, 0, 0, 1}};
  return bias_factor(p, s, i, j) * read(numbers, 0, 0, 0, bias_index(p, s, head, i, j));
}

// fp64 operands and scores of one (sequence, query head), and how far an fp32 score may be from them.
class HeadTruth {
 public:
  HeadTruth(const Problem& p, const Sequence& s, std::int64_t head, const Route& route)
      : rows(s.rows), keys(s.keys), depth(p.query.channels()), width(p.value.channels()) {
    const std::int64_t kv = head / p.group();
    q = rows_of(p.query, s.batch, head, s.row, rows), k = rows_of(p.key, s.batch, kv, s.key, keys),
    v = rows_of(p.value, s.batch, kv, s.key, keys);
    visible.resize(static_cast<std::size_t>(rows * keys));
    score.resize(visible.size()), score_error.resize(visible.size()), kept.resize(visible.size(), 1);
    for (std::int64_t i = 0; i < rows; ++i) {
      const Interval sees = s.band.row(s.row0 + i, s.key0 + keys);
      for (std::int64_t j = 0; j < keys; ++j) {
        const Overlay& o = p.overlay;
        const bool hidden =
            o && o.data[s.batch * o.stride[0] + head * o.stride[1] + i * o.stride[2] + j * o.stride[3]];
        visible[at(i, j)] = j + s.key0 >= sees.begin && j + s.key0 < sees.end && !hidden;
        if (!visible[at(i, j)]) continue;
        score_pair(i, j, p, route);
        if (p.bias) add_bias(p, s, head, i, j);
        if (p.dropout) kept[at(i, j)] = ref::kept_factor(p, s, head, i, j);
      }
    }
  }

  std::size_t at(std::int64_t i, std::int64_t j) const { return static_cast<std::size_t>(i * keys + j); }

  static std::vector<double> rows_of(const TensorView& view, std::int64_t batch, std::int64_t head,
                                     std::int64_t first, std::int64_t count) {
    std::vector<double> out;
    out.reserve(static_cast<std::size_t>(count * view.channels()));
    for (std::int64_t r = 0; r < count; ++r)
      for (std::int64_t c = 0; c < view.channels(); ++c) out.push_back(read(view, batch, head, first + r, c));
    return out;
  }

  std::int64_t rows, keys, depth, width;
  std::vector<bool> visible;
  std::vector<double> score, score_error, q, k, v;
  std::vector<double> kept;  // of dropout: 0 or 1 / keep_prob

 private:
  static double half(double x) {
    return to_float(
        from_float<f16>(static_cast<float>(std::isnan(x) ? x : std::clamp(x, -65504.0, 65504.0))));
  }

  // |δs| ≤ |scale|·((products·D + 2)·flat + dropped)·Σ|q||k|, and what is flushed: q, k or a product. Halves:
  // those on either side may be meant.
  void score_pair(std::int64_t i, std::int64_t j, const Problem& p, const Route& route) {
    double dot = 0, size = 0, flushed = 0;
    for (std::int64_t d = 0; d < depth; ++d) {
      const double a = q[static_cast<std::size_t>(i * depth + d)],
                   b = k[static_cast<std::size_t>(j * depth + d)];
      dot += a * b, size += std::fabs(a * b), flushed += 1 + std::fabs(a) + std::fabs(b);
    }
    const double terms = (route.products * static_cast<double>(depth) + 2) * kFlat + route.dropped;
    double error = terms * size + 4 * kFlush * flushed;
    if (p.half_scores) {
      const double exact = dot;
      dot = half(exact);
      error = std::fmax(half(exact + error) - dot, dot - half(exact - error));
    }
    score[at(i, j)] = p.scale * dot;
    score_error[at(i, j)] = std::fabs(p.scale) * error;
  }

  // The bias may cancel the product: some roundings of both, beside those of their sum. A slope times a
  // distance (or its root) is rounded three times.
  void add_bias(const Problem& p, const Sequence& s, std::int64_t head, std::int64_t i, std::int64_t j) {
    const double product = score[at(i, j)], factor = p.bias.before_scale ? p.scale : 1;
    const double bias = factor * bias_of(p, s, head, i, j);
    score[at(i, j)] = product + bias;
    if (std::isfinite(bias))
      score_error[at(i, j)] +=
          8 * kFlat * (std::fabs(product) + std::fabs(bias)) + 8 * kFlush * (1 + std::fabs(factor));
  }
};

inline std::int64_t statistics_entry(const Problem& p, const Sequence& s, std::int64_t before, std::int64_t n,
                                     std::int64_t i) {
  const std::int64_t heads = p.query.heads();
  const bool head_major = p.statistics.order == StatisticsOrder::head_major;
  return (before * heads + (head_major ? n * s.rows + i : i * heads + n)) * p.statistics.copies;
}

}  // namespace fusion_attention::testing
