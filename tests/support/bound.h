// The largest error that a correct kernel can make, element by element, derived from the problem.
//
// u is the roundoff of the output's dtype, flat = 2⁻²⁴ that of fp32, γ(n) = (products·n + 16)·flat + dropped
// what a sum of n products may lose of Σ|terms| in any order (Route), u_P and e what P and exp2 lose.
//
// Forward. A score is off by δ: by its dot product (HeadTruth), and by a few roundings of |s| and of the
// row's maximum, on the way through scale·log₂ e, the running reference and the merge of splits. So
//
//   p̂ⱼ    = pⱼ·(1 + rⱼ)        rⱼ = expm1(δⱼ + e)
//   l̂     = l·(1 + Δ)          Δ  = Σ pⱼ·rⱼ / l + γ(n): l sums P before it is rounded
//   |ô−o| ≤ Σ pⱼ|vⱼ|·((1 + rⱼ)(1 + u_P) / (1 − Δ) − 1 + γ(n)), and never above 2·max|vⱼ|: both are means
//   max    is off by the largest δ that can be the maximum, sum by Δ and by that δ
//
// A sink is one more score, exact, without a value. Dropout multiplies pⱼ by kept / keep_prob after l, two
// more roundings; the largest |o| grows with it.
//
// Backward. The caller's max and sum are exact, so nothing cancels against the row:
//
//   P      r = expm1(δ + 8·flat·(|max| + |log sum| + |s|) + e), then u_P
//   dS     P·(1 + r)·(γ(Dv)·(Σ|dO||v| + Σ|dO||o|) + 2·flat·(|dP| + |Δ|)) + (r + u_P + 2·flat)·|dS|:
//          the first part is what the subtraction dP − Δ leaves, however small their difference is
//   dQ dK dV   Σ error·|other factor| + γ(n)·Σ|terms|, times |scale| for dQ and dK
//   dbias      Σ error(dS) + γ(n)·Σ|dS| over the n pairs that read one number, times |scale| before the scale
//   dsink      Σ P_sink·(rₛ·|Δ| + (1 + rₛ)·γ(Dv)·Σ|dO||o|) + γ(rows)·Σ|P_sink·Δ|, rₛ as r of an exact score
//
// with dropout kept / keep_prob times dP and, in dV, times P, two roundings each,
//
// and u·|result| on top. What lies below 2⁻¹²⁶ may be flushed: operands, products, P and results.
#pragma once

#include <algorithm>

#include "support/truth.h"

namespace fusion_attention::testing {

inline double sum_error(const Route& route, double terms) {
  return (route.products * terms + 16) * kFlat + route.dropped;
}

// One row of the forward: its softmax and how far it may be off.
struct SoftmaxTruth {
  bool empty = false, nan = false;
  bool nothing = true;  // no visible score is above −∞
  bool vague = false;   // some score is off by so much that only the mean of the values is known
  double top = -INFINITY, sum = 0, top_error = 0, sum_error = 0;
  std::vector<double> weight, ratio;  // exp(s − top); r

  // `sink`: −∞ where there is none.
  SoftmaxTruth(const HeadTruth& t, std::int64_t i, const Route& route, double sink)
      : nan(std::isnan(sink)),
        top(sink),
        weight(static_cast<std::size_t>(t.keys)),
        ratio(static_cast<std::size_t>(t.keys)) {
    for (std::int64_t j = 0; j < t.keys; ++j) {
      if (!t.visible[t.at(i, j)]) continue;
      nan |= std::isnan(t.score[t.at(i, j)]);
      nothing &= t.score[t.at(i, j)] == -INFINITY;
      top = std::fmax(top, t.score[t.at(i, j)]);
    }
    empty = top == -INFINITY && !nan;
    if (empty) return;
    const auto roundings = [&](double score) { return 8 * kFlat * (std::fabs(score) + std::fabs(top) + 1); };
    const auto error = [&](std::int64_t j) {
      return t.score_error[t.at(i, j)] + roundings(t.score[t.at(i, j)]);
    };
    double off = 0, at_top = 0;
    if (sink != -INFINITY) {
      sum = std::exp(sink - top), off = sum * std::expm1(std::fmin(roundings(sink), 1) + route.exp_error);
      if (sink == top) at_top = roundings(sink);
    }
    for (std::int64_t j = 0; j < t.keys; ++j) {
      if (!t.visible[t.at(i, j)] || t.score[t.at(i, j)] == -INFINITY) continue;
      const auto key = static_cast<std::size_t>(j);
      const double delta = error(j);
      vague |= delta > 1;
      weight[key] = std::exp(t.score[t.at(i, j)] - top);
      ratio[key] = std::expm1(std::fmin(delta, 1) + route.exp_error);
      sum += weight[key], off += weight[key] * ratio[key];
      if (t.score[t.at(i, j)] == top) at_top = std::fmax(at_top, delta);
    }
    for (std::int64_t j = 0; j < t.keys; ++j)
      if (t.visible[t.at(i, j)] && t.score[t.at(i, j)] + error(j) >= top - at_top)
        top_error = std::fmax(top_error, error(j));
    if (sink != -INFINITY && sink + roundings(sink) >= top - at_top)
      top_error = std::fmax(top_error, roundings(sink));
    sum_error = off / sum + kFlat * static_cast<double>(t.keys + 16);
    vague |= sum_error > 0.5;
  }
};

// Q of integer.h: never decreases with y, or never increases.
inline double quantised(const OutputScaling& scaling, std::int64_t place, double y) {
  const auto half = [](double x) -> double { return to_float(from_float<f16>(static_cast<float>(x))); };
  double x = half(half(y) * half(scaling.scale[place]));
  if (scaling.offset) x = half(x + half(scaling.offset[place]));
  return std::isnan(x) ? 0 : std::nearbyint(std::clamp(x, -128.0, 127.0));
}

// An int8 result whose fp32 number is out ± error. A row that sees nothing is 0.
inline void judge_quantised(const Problem& p, const Sequence& s, std::int64_t n, std::int64_t i,
                            std::int64_t c, double out, double error, bool nothing, Verdict& verdict) {
  const std::int64_t place = p.output_scaling.channels == 1 ? 0 : n * p.value.channels() + c;
  const double low = quantised(p.output_scaling, place, out - error),
               high = quantised(p.output_scaling, place, out + error);
  const double want = nothing ? 0 : (low + high) / 2, spread = nothing ? 0 : std::fabs(high - low) / 2;
  verdict.element("output", s.batch, n, s.row + i, c, read(p.output, s.batch, n, s.row + i, c), want, 0,
                  spread);
}

inline void judge_forward_row(const Problem& p, const Sequence& s, const HeadTruth& t, std::int64_t before,
                              std::int64_t n, std::int64_t i, Verdict& verdict) {
  const Route& route = verdict.route;
  const SoftmaxTruth row(t, i, route, p.sink ? p.sink.data[n] : -INFINITY);
  const double keys = static_cast<double>(t.keys), terms = testing::sum_error(route, keys);
  for (std::int64_t c = 0; c < t.width; ++c) {
    double out = 0, error = 0, largest = 0;
    bool open = false;  // an infinite value under a weight that may or may not be 0: infinity or NaN
    for (std::int64_t j = 0; j < t.keys && !row.empty; ++j) {
      if (!t.visible[t.at(i, j)]) continue;
      const auto key = static_cast<std::size_t>(j);
      const double v = t.kept[t.at(i, j)] * t.v[static_cast<std::size_t>(j * t.width + c)],
                   x = row.weight[key] / row.sum * v;
      out += x, largest = std::fmax(largest, std::fabs(v));
      open |= std::isinf(v) && t.score[t.at(i, j)] != -INFINITY && (row.vague || row.weight[key] == 0);
      error += std::fabs(x) *
               ((1 + row.ratio[key]) * (1 + route.p_roundoff) / (1 - std::fmin(row.sum_error, 0.5)) - 1 +
                terms + (p.dropout ? 2 * kFlat : 0));
    }
    if (row.vague || error > 2 * largest) error = 2 * largest;
    error += 4 * keys * kFlush * (1 + largest);
    const double got = read(p.output, s.batch, n, s.row + i, c);
    if (open && (p.output_scaling || !std::isfinite(got))) continue;
    if (p.output_scaling) {
      judge_quantised(p, s, n, i, c, out, error + kFlat * std::fabs(out), row.nothing, verdict);
      continue;
    }
    verdict.element("output", s.batch, n, s.row + i, c, got, out, row.empty ? 0 : error,
                    row.empty ? 0 : roundoff(p.query.dtype) * std::fabs(out) + half_spacing(p.query.dtype));
  }
  if (!p.statistics.max) return;
  const std::int64_t entry = statistics_entry(p, s, before, n, i);
  const double sum_bound = row.vague ? keys : row.sum * ((1 + row.sum_error) * std::exp(row.top_error) - 1);
  for (std::int64_t copy = 0; copy < p.statistics.copies; ++copy) {
    verdict.element("softmax_max", s.batch, n, s.row + i, copy, p.statistics.max[entry + copy],
                    row.empty ? -FLT_MAX
                    : row.nan ? NAN
                              : row.top,
                    row.empty ? 0 : row.top_error);
    verdict.element("softmax_sum", s.batch, n, s.row + i, copy, p.statistics.sum[entry + copy],
                    row.empty ? 1 : row.sum, row.empty ? 0 : sum_bound);
  }
}

// A gradient and its bound, summed over the heads of a group before it is judged.
struct Sums {
  explicit Sums(std::int64_t rows, std::int64_t channels)
      : value(static_cast<std::size_t>(rows * channels)), size(value), error(value), rows(rows) {}

  void add(std::int64_t at, double term, double off) {
    const auto place = static_cast<std::size_t>(at);
    value[place] += term, size[place] += std::fabs(term), error[place] += off;
  }
  void judge(const char* what, const TensorView& view, const Sequence& s, std::int64_t head,
             std::int64_t first, double count, double factor, Verdict& verdict) const {
    const double terms = sum_error(verdict.route, count);
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t c = 0; c < view.channels(); ++c) {
        const auto at = static_cast<std::size_t>(r * view.channels() + c);
        const double want = factor * value[at];
        verdict.element(what, s.batch, head, first + r, c, read(view, s.batch, head, first + r, c), want,
                        std::fabs(factor) * (error[at] + terms * size[at] + 4 * count * kFlush),
                        roundoff(view.dtype) * std::fabs(want) + half_spacing(view.dtype));
      }
  }

  std::vector<double> value, size, error;
  std::int64_t rows;
};

// The gradients of bias and sink, over all sequences. Where a bias broadcasts, many pairs share a number.
struct ScoreSums {
  explicit ScoreSums(const Problem& p)
      : bias(1, p.bias.gradient ? p.bias.elements : 0),
        pairs(bias.value.size()),
        sink(1, p.sink ? p.query.heads() : 0) {}

  void add_sink(std::int64_t n, double prob, double prob_error, double delta, double delta_error) {
    sink.add(n, -prob * delta, prob * (prob_error * std::fabs(delta) + (1 + prob_error) * delta_error));
    rows += 1;
  }
  void add_bias(std::int64_t place, double ds, double error) {
    bias.add(place, ds, error), pairs[static_cast<std::size_t>(place)] += 1;
  }
  void judge(const Problem& p, Verdict& verdict) const {
    const double factor = p.bias.before_scale ? p.scale : 1;
    for (std::size_t e = 0; e < pairs.size(); ++e)
      judge_number("bias_gradient", bias, e, p.bias.gradient[e], factor, pairs[e], verdict);
    for (std::size_t n = 0; n < sink.value.size() && p.sink.gradient; ++n)
      judge_number("sink_gradient", sink, n, p.sink.gradient[n], 1,
                   rows / static_cast<double>(p.query.heads()), verdict);
  }

  Sums bias;
  std::vector<double> pairs;  // that read a number of the bias
  Sums sink;
  double rows = 0;  // of all heads

 private:
  static void judge_number(const char* what, const Sums& sums, std::size_t at, double got, double factor,
                           double count, Verdict& verdict) {
    const double want = factor * sums.value[at], terms = sum_error(verdict.route, count);
    const double lost = sums.error[at] + terms * sums.size[at] + 4 * count * kFlush;
    verdict.element(what, 0, 0, 0, static_cast<std::int64_t>(at), got, want, std::fabs(factor) * lost,
                    kFlat * std::fabs(want) + kFlush);
  }
};

struct Delta {
  double value = 0, size = 0;  // Σ dO∘O, Σ |dO∘O|

  Delta(const double* d_o, const double* out, std::int64_t width) {
    for (std::int64_t c = 0; c < width; ++c) value += d_o[c] * out[c], size += std::fabs(d_o[c] * out[c]);
  }
};

// What one row adds to the gradients of a head, pair by pair; `visit` gets the key, dS and its error.
template <class Visit>
void add_row_gradients(const HeadTruth& t, const double* d_o, const double* out, double top, double sum,
                       std::int64_t i, const Route& route, Sums& dq, Sums& dk, Sums& dv, Visit visit) {
  const double gamma = sum_error(route, static_cast<double>(t.width));
  const Delta row(d_o, out, t.width);
  const double delta = row.value, delta_size = row.size;
  for (std::int64_t j = 0; j < t.keys; ++j) {
    if (!t.visible[t.at(i, j)]) continue;
    const double score = t.score[t.at(i, j)], prob = std::exp(score - top) / sum, kept = t.kept[t.at(i, j)];
    // A score of −∞ is a weight of exactly 0, whatever its error.
    const double off =
        score == -INFINITY
            ? 0
            : std::expm1(t.score_error[t.at(i, j)] +
                         8 * kFlat * (std::fabs(top) + std::fabs(std::log(sum)) + std::fabs(score)) +
                         route.exp_error);
    double dp = 0, dp_size = 0, flushed = 0;
    for (std::int64_t c = 0; c < t.width; ++c) {
      const double v = kept == 0 ? 0 : kept * t.v[static_cast<std::size_t>(j * t.width + c)];
      dp += kept == 0 ? 0 : d_o[c] * v, dp_size += kept == 0 ? 0 : std::fabs(d_o[c] * v);
      flushed += 4 * kFlush * (1 + std::fabs(d_o[c]) + std::fabs(v) + std::fabs(out[c]));
    }
    const double ds = prob * (dp - delta);
    const double ds_error =
        prob * (1 + off) *
            (gamma * (dp_size + delta_size) + 2 * kFlat * (std::fabs(dp) + std::fabs(delta)) + flushed) +
        (off + route.p_roundoff + 2 * kFlat) * std::fabs(ds) + 4 * kFlush * (1 + std::fabs(dp - delta));
    visit(j, ds, ds_error);
    const double dropped = kept == 0 ? 0 : kept * prob,
                 p_error = (kept == 0 ? 0 : (off + route.p_roundoff + 2 * kFlat) * dropped) + 4 * kFlush;
    for (std::int64_t c = 0; c < t.width; ++c)
      dv.add(j * t.width + c, dropped * d_o[c], p_error * std::fabs(d_o[c]));
    for (std::int64_t d = 0; d < t.depth; ++d) {
      const double kd = t.k[static_cast<std::size_t>(j * t.depth + d)],
                   qd = t.q[static_cast<std::size_t>(i * t.depth + d)];
      dq.add(i * t.depth + d, ds * kd, ds_error * std::fabs(kd) + 4 * kFlush * std::fabs(ds));
      dk.add(j * t.depth + d, ds * qd, ds_error * std::fabs(qd) + 4 * kFlush * std::fabs(ds));
    }
  }
}

inline void judge_head_gradients(const Problem& p, const Sequence& s, std::int64_t before, std::int64_t n,
                                 Sums& dk, Sums& dv, ScoreSums& scores, Verdict& verdict) {
  const HeadTruth t(p, s, n, verdict.route);
  const auto d_o = HeadTruth::rows_of(p.output_gradient, s.batch, n, s.row, s.rows),
             out = HeadTruth::rows_of(p.output, s.batch, n, s.row, s.rows);
  Sums dq(s.rows, t.depth);
  for (std::int64_t i = 0; i < s.rows; ++i) {
    const std::int64_t entry = statistics_entry(p, s, before, n, i);
    const double top = p.statistics.max[entry], sum = p.statistics.sum[entry];
    if (top <= -FLT_MAX) continue;
    const double *row_d_o = d_o.data() + i * t.width, *row_out = out.data() + i * t.width;
    add_row_gradients(t, row_d_o, row_out, top, sum, i, verdict.route, dq, dk, dv,
                      [&](std::int64_t j, double ds, double error) {
                        if (!p.bias.gradient) return;
                        const double factor = bias_factor(p, s, i, j);
                        scores.add_bias(bias_index(p, s, n, i, j), factor * ds,
                                        std::fabs(factor) * (error + 2 * kFlat * std::fabs(ds)));
                      });
    if (!p.sink) continue;
    const Delta delta(row_d_o, row_out, t.width);
    const double sink = p.sink.data[n],
                 off = std::expm1(8 * kFlat * (std::fabs(top) + std::fabs(std::log(sum)) + std::fabs(sink)) +
                                  verdict.route.exp_error);
    scores.add_sink(n, std::exp(sink - top) / sum, off, delta.value,
                    sum_error(verdict.route, static_cast<double>(t.width)) * delta.size + 4 * kFlush);
  }
  dq.judge("query_gradient", p.query_gradient, s, n, s.row, static_cast<double>(s.keys), p.scale, verdict);
}

// Rows of a view that no sequence covers hold zero.
inline void judge_uncovered(const char* what, const Problem& p, const TensorView& view, bool keys,
                            Verdict& verdict) {
  std::vector<bool> covered(static_cast<std::size_t>(view.batches() * view.rows()));
  for (const Sequence& s : p.sequences)
    for (std::int64_t r = 0; r < (keys ? s.keys : s.rows); ++r)
      covered[static_cast<std::size_t>(s.batch * view.rows() + (keys ? s.key : s.row) + r)] = true;
  for (std::int64_t b = 0; b < view.batches(); ++b)
    for (std::int64_t r = 0; r < view.rows(); ++r) {
      if (covered[static_cast<std::size_t>(b * view.rows() + r)]) continue;
      for (std::int64_t h = 0; h < view.heads(); ++h)
        for (std::int64_t c = 0; c < view.channels(); ++c)
          verdict.element(what, b, h, r, c, read(view, b, h, r, c), 0, 0);
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
  judge_uncovered("output", p, p.output, /*keys=*/false, verdict);
  if (!p.statistics.max) return;
  const std::int64_t heads = p.query.heads() * p.statistics.copies;
  for (std::int64_t e = before * heads; e < p.query.batches() * p.query.rows() * heads; ++e) {
    verdict.element("softmax_max past the sequences", 0, 0, 0, e, p.statistics.max[e], -FLT_MAX, 0);
    verdict.element("softmax_sum past the sequences", 0, 0, 0, e, p.statistics.sum[e], 1, 0);
  }
}

inline void judge_backward(const Problem& p, Verdict& verdict) {
  ScoreSums scores(p);
  std::int64_t before = 0;
  for (const Sequence& s : p.sequences) {
    for (std::int64_t kv = 0; kv < p.key.heads(); ++kv) {
      Sums dk(s.keys, p.key.channels()), dv(s.keys, p.value.channels());
      for (std::int64_t g = 0; g < p.group(); ++g)
        judge_head_gradients(p, s, before, kv * p.group() + g, dk, dv, scores, verdict);
      const double count = static_cast<double>(s.rows * p.group());
      dk.judge("key_gradient", p.key_gradient, s, kv, s.key, count, p.scale, verdict);
      dv.judge("value_gradient", p.value_gradient, s, kv, s.key, count, 1, verdict);
    }
    before += s.rows;
  }
  scores.judge(p, verdict);
  judge_uncovered("query_gradient", p, p.query_gradient, /*keys=*/false, verdict);
  judge_uncovered("key_gradient", p, p.key_gradient, /*keys=*/true, verdict);
  judge_uncovered("value_gradient", p, p.value_gradient, /*keys=*/true, verdict);
}

inline Verdict judge(const Problem& p, const Route& route) {
  Verdict verdict(route);
  p.pass == Pass::forward ? judge_forward(p, verdict) : judge_backward(p, verdict);
  return verdict;
}

}  // namespace fusion_attention::testing
