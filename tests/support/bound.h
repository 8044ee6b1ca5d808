// The largest error that a correct kernel can make, element by element, derived from the problem.
//
// u is the unit roundoff of the output type, flat = 2⁻²⁴ that of fp32. With γ(n) = n·flat:
//
//   score       |δs| ≤ |scale|·γ(D+2)·Σ|q||k| + 2·flat·|s|     the dot product in any order, the scale, the
//   change to base 2 P           relative 2·max δs + u_P + e                    an error of a score moves P
//   and the sum by as much; e is exp's polynomial O           u·|o| + 2·(P's)·Σ p|v| rounding P to the
//   operand type, products, one division, one rounding P (given max, sum)   δs + 8·flat·(|max| + |log sum| +
//   |s|) + e dP, Δ       γ(Dv+2)·Σ|dO||v|, γ(Dv+2)·Σ|dO||o| dS          P·(δdP + δΔ + 2·flat·(|dP| + |Δ|)) +
//   (P's + 2·u_P)·|dS| dQ, dK, dV  u·|·| + Σ (2·δ + γ(n+8)·|·|)·|other factor|     n terms
//
// and what lies below 2⁻¹²⁶ may be flushed. What depends on how a kernel row computes is its Route: u_P is
// how P and dS enter the second products (rounded to bf16, 2⁻⁸; as two truncated bf16, 2⁻¹⁴, or three, 2⁻²¹;
// or in fp32), e the error of its exp2, and every dot product of D terms is a sum of up to `products`·D when
// operands are split into planes.
#pragma once

#include <cfloat>
#include <cmath>
#include <string>
#include <vector>

#include "support/case.h"

namespace fusion_attention::testing {

inline constexpr double kFlat = 0x1p-24;

inline double roundoff(Dtype dtype) {
  return dtype == Dtype::bfloat16 ? 0x1p-8 : dtype == Dtype::float16 ? 0x1p-11 : kFlat;
}

struct Route {
  double products = 1;
  double p_roundoff = kFlat;
  double exp_error = 2e-7;
};

inline Route route_of(const std::string& arch, Dtype dtype) {
  const bool tiles = arch.rfind("amx", 0) == 0;
  if (dtype == Dtype::bfloat16 && (tiles || arch == "avx512_bf16")) return {1, 0x1p-8, 7.6e-5};
  if (tiles && dtype == Dtype::float16) return {4, 0x1p-14, 2e-7};
  if (tiles) return {6, 0x1p-21, 2e-7};
  return {};
}

// Compares what a run left in the outputs; remembers the worst ratio and where the first element outside
// lies.
class Verdict {
 public:
  explicit Verdict(const Route& how) : route(how) {}

  void element(const char* what, std::int64_t b, std::int64_t h, std::int64_t r, std::int64_t c, double got,
               double want, double bound) {
    const bool agree = std::isfinite(want) ? std::fabs(got - want) <= bound : !std::isfinite(got);
    if (agree) {
      if (std::isfinite(want) && bound > 0) worst = std::fmax(worst, std::fabs(got - want) / bound);
      return;
    }
    if (failures++ == 0) {
      char text[200];
      std::snprintf(text, sizeof text, "%s[%ld, %ld, %ld, %ld]: got %.9g, want %.9g ± %.3g", what, long(b),
                    long(h), long(r), long(c), got, want, bound);
      first = text;
    }
  }
  Route route;
  double worst = 0;
  std::int64_t failures = 0;
  std::string first;
};

// fp64 matrices of one (sequence, query head).
class HeadTruth {
 public:
  HeadTruth(const Problem& p, const Sequence& s, std::int64_t head, const Route& route)
      : p_(p), s_(s), head_(head), kv_(head / p.group()), rows_(s.rows), keys_(s.keys) {
    const auto all = static_cast<std::size_t>(rows_ * keys_);
    visible.resize(all), score.resize(all), score_error.resize(all);
    q = rows_of(p.query, head, s.row, rows_), k = rows_of(p.key, kv_, s.key, keys_),
    v = rows_of(p.value, kv_, s.key, keys_);
    for (std::int64_t i = 0; i < rows_; ++i) {
      const Interval sees = s.band.row(s.row0 + i, s.key0 + keys_);
      for (std::int64_t j = 0; j < keys_; ++j) {
        const Overlay& o = p.overlay;
        const bool hidden =
            o && o.data[s.batch * o.stride[0] + head * o.stride[1] + i * o.stride[2] + j * o.stride[3]];
        visible[at(i, j)] = j + s.key0 >= sees.begin && j + s.key0 < sees.end && !hidden;
        if (!visible[at(i, j)]) continue;
        double dot = 0, size = 0;
        for (std::int64_t d = 0; d < depth(); ++d) {
          const double x = q[i * depth() + d] * k[j * depth() + d];
          dot += x, size += std::fabs(x);
        }
        score[at(i, j)] = p.scale * dot;
        score_error[at(i, j)] =
            std::fabs(p.scale) * ((route.products * static_cast<double>(depth()) + 2) * kFlat * size +
                                  static_cast<double>(depth()) * 0x1p-124) +
            2 * kFlat * std::fabs(p.scale * dot);
      }
    }
  }

  std::size_t at(std::int64_t i, std::int64_t j) const { return static_cast<std::size_t>(i * keys_ + j); }
  std::int64_t depth() const { return p_.query.channels(); }
  std::int64_t value_depth() const { return p_.value.channels(); }
  std::vector<double> rows_of(const TensorView& view, std::int64_t head, std::int64_t first,
                              std::int64_t count) const {
    std::vector<double> out;
    out.reserve(static_cast<std::size_t>(count * view.channels()));
    for (std::int64_t r = 0; r < count; ++r)
      for (std::int64_t c = 0; c < view.channels(); ++c)
        out.push_back(read(view, s_.batch, head, first + r, c));
    return out;
  }

  std::vector<bool> visible;
  std::vector<double> score, score_error, q, k, v;

 protected:
  const Problem& p_;
  const Sequence& s_;
  std::int64_t head_, kv_, rows_, keys_;
};

inline double half_floor(Dtype dtype) {
  return dtype == Dtype::float16 ? 0x1p-25 : 0;
}

inline std::int64_t statistics_entry(const Problem& p, const Sequence& s, std::int64_t before, std::int64_t n,
                                     std::int64_t i) {
  const std::int64_t heads = p.query.heads();
  return (before * heads +
          (p.statistics.order == StatisticsOrder::head_major ? n * s.rows + i : i * heads + n)) *
         p.statistics.copies;
}

inline void judge_forward_row(const Problem& p, const Sequence& s, const HeadTruth& t, std::int64_t before,
                              std::int64_t n, std::int64_t i, Verdict& verdict) {
  const Dtype dtype = p.query.dtype;
  const double u = roundoff(dtype), keys = static_cast<double>(s.keys);
  double top = -INFINITY, sum = 0, row_error = 0;
  bool nan = false;
  for (std::int64_t j = 0; j < s.keys; ++j) {
    if (!t.visible[t.at(i, j)]) continue;
    nan |= std::isnan(t.score[t.at(i, j)]);
    top = std::fmax(top, t.score[t.at(i, j)]);
    row_error = std::fmax(row_error, t.score_error[t.at(i, j)]);
  }
  const bool empty = top == -INFINITY && !nan;
  std::vector<double> weight(static_cast<std::size_t>(s.keys), 0.0);
  for (std::int64_t j = 0; j < s.keys && !empty; ++j)
    if (t.visible[t.at(i, j)])
      sum += weight[static_cast<std::size_t>(j)] = std::exp(t.score[t.at(i, j)] - top);
  const double relative = 2 * row_error + 2 * verdict.route.p_roundoff + verdict.route.exp_error +
                          (verdict.route.products * keys + 8) * kFlat;
  for (std::int64_t c = 0; c < t.value_depth(); ++c) {
    double out = 0, size = 0;
    for (std::int64_t j = 0; j < s.keys && !empty; ++j) {
      if (!t.visible[t.at(i, j)]) continue;
      const double x =
          weight[static_cast<std::size_t>(j)] / sum * t.v[static_cast<std::size_t>(j * t.value_depth() + c)];
      out += x, size += std::fabs(x);
    }
    const double bound =
        empty ? 0 : u * std::fabs(out) + 2 * relative * size + half_floor(dtype) + keys * 0x1p-124;
    verdict.element("output", s.batch, n, s.row + i, c, read(p.output, s.batch, n, s.row + i, c), out, bound);
  }
  const std::int64_t entry = statistics_entry(p, s, before, n, i);
  for (std::int64_t copy = 0; copy < p.statistics.copies; ++copy) {
    const double want = empty ? -FLT_MAX : top;
    if (!nan)  // the sum of a NaN row says so; what its maximum is, nobody
      verdict.element("softmax_max", s.batch, n, s.row + i, copy, p.statistics.max[entry + copy], want,
                      empty ? 0 : row_error + 4 * kFlat * std::fabs(top));
    verdict.element("softmax_sum", s.batch, n, s.row + i, copy, p.statistics.sum[entry + copy],
                    empty ? 1 : sum,
                    empty ? 0
                          : 2 * sum *
                                (2 * row_error + verdict.route.exp_error + 8 * kFlat * std::fabs(top) +
                                 (keys + 8) * kFlat));
  }
}

inline void judge_forward(const Problem& p, Verdict& verdict) {
  std::int64_t before = 0;
  for (const Sequence& s : p.sequences) {
    for (std::int64_t n = 0; n < p.query.heads(); ++n) {
      const HeadTruth truth(p, s, n, verdict.route);
      for (std::int64_t i = 0; i < s.rows; ++i) judge_forward_row(p, s, truth, before, n, i, verdict);
    }
    before += s.rows;
  }
}

// A gradient and its bound, summed over the heads of a group before it is judged.
struct Sums {
  explicit Sums(std::size_t n) : value(n, 0.0), size(n, 0.0), bound(n, 0.0) {}
  void add(std::size_t at, double term, double error) {
    value[at] += term, size[at] += std::fabs(term), bound[at] += error;
  }
  void judge(const char* what, const TensorView& view, const Sequence& s, std::int64_t head,
             std::int64_t first, std::int64_t rows, double count, double factor, Verdict& verdict) const {
    const double u = roundoff(view.dtype);
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t c = 0; c < view.channels(); ++c) {
        const auto at = static_cast<std::size_t>(r * view.channels() + c);
        const double bound =
            u * std::fabs(factor * value[at]) +
            std::fabs(factor) * (2 * bound_of(at) + (verdict.route.products * count + 8) * kFlat * size[at]);
        verdict.element(what, s.batch, head, first + r, c, read(view, s.batch, head, first + r, c),
                        factor * value[at], bound + half_floor(view.dtype) + 0x1p-124);
      }
  }
  double bound_of(std::size_t at) const { return bound[at]; }
  std::vector<double> value, size, bound;
};

inline void add_head_gradients(const Problem& p, const Sequence& s, std::int64_t before, std::int64_t n,
                               Sums& dk, Sums& dv, Verdict& verdict) {
  const HeadTruth t(p, s, n, verdict.route);
  const auto d_o = t.rows_of(p.output_gradient, n, s.row, s.rows),
             out = t.rows_of(p.output, n, s.row, s.rows);
  const std::int64_t width = t.value_depth(), depth = t.depth();
  Sums dq(static_cast<std::size_t>(s.rows * depth));
  const double steps = (verdict.route.products * static_cast<double>(width) + 2) * kFlat,
               floor = 0x1p-122 * static_cast<double>(s.rows + s.keys);
  for (std::int64_t i = 0; i < s.rows; ++i) {
    const std::int64_t entry = statistics_entry(p, s, before, n, i);
    const double top = p.statistics.max[entry], sum = p.statistics.sum[entry];
    if (top <= -FLT_MAX) continue;
    double delta = 0, delta_size = 0;
    for (std::int64_t c = 0; c < width; ++c) {
      const double x =
          d_o[static_cast<std::size_t>(i * width + c)] * out[static_cast<std::size_t>(i * width + c)];
      delta += x, delta_size += std::fabs(x);
    }
    for (std::int64_t j = 0; j < s.keys; ++j) {
      if (!t.visible[t.at(i, j)]) continue;
      const double score = t.score[t.at(i, j)], prob = std::exp(score - top) / sum;
      // A score of −∞ is a weight of exactly 0, whatever its error.
      const double relative =
          score == -INFINITY
              ? 0
              : t.score_error[t.at(i, j)] +
                    8 * kFlat * (std::fabs(top) + std::fabs(std::log(sum)) + std::fabs(score)) +
                    verdict.route.exp_error;
      double dp = 0, dp_size = 0;
      for (std::int64_t c = 0; c < width; ++c) {
        const double x =
            d_o[static_cast<std::size_t>(i * width + c)] * t.v[static_cast<std::size_t>(j * width + c)];
        dp += x, dp_size += std::fabs(x);
      }
      const double ds = prob * (dp - delta);
      const double ds_error =
          prob * (steps * (dp_size + delta_size) + 2 * kFlat * (std::fabs(dp) + std::fabs(delta))) +
          (relative + 2 * verdict.route.p_roundoff) * std::fabs(ds) + floor;
      const double p_error = (relative + verdict.route.p_roundoff) * prob + floor;
      for (std::int64_t c = 0; c < width; ++c) {
        const double x = d_o[static_cast<std::size_t>(i * width + c)];
        dv.add(static_cast<std::size_t>(j * width + c), prob * x, p_error * std::fabs(x));
      }
      for (std::int64_t d = 0; d < depth; ++d) {
        const double kd = t.k[static_cast<std::size_t>(j * depth + d)],
                     qd = t.q[static_cast<std::size_t>(i * depth + d)];
        dq.add(static_cast<std::size_t>(i * depth + d), ds * kd, ds_error * std::fabs(kd));
        dk.add(static_cast<std::size_t>(j * depth + d), ds * qd, ds_error * std::fabs(qd));
      }
    }
  }
  dq.judge("query_gradient", p.query_gradient, s, n, s.row, s.rows, static_cast<double>(s.keys), p.scale,
           verdict);
}

inline void judge_backward(const Problem& p, Verdict& verdict) {
  std::int64_t before = 0;
  for (const Sequence& s : p.sequences) {
    for (std::int64_t kv = 0; kv < p.key.heads(); ++kv) {
      Sums dk(static_cast<std::size_t>(s.keys * p.key.channels())),
          dv(static_cast<std::size_t>(s.keys * p.value.channels()));
      for (std::int64_t g = 0; g < p.group(); ++g)
        add_head_gradients(p, s, before, kv * p.group() + g, dk, dv, verdict);
      const double count = static_cast<double>(s.rows * p.group());
      dk.judge("key_gradient", p.key_gradient, s, kv, s.key, s.keys, count, p.scale, verdict);
      dv.judge("value_gradient", p.value_gradient, s, kv, s.key, s.keys, count, 1, verdict);
    }
    before += s.rows;
  }
}

inline Verdict judge(const Problem& p, const Route& route) {
  Verdict verdict(route);
  p.pass == Pass::forward ? judge_forward(p, verdict) : judge_backward(p, verdict);
  return verdict;
}

}  // namespace fusion_attention::testing
