// The backward in plain loops and double precision, from the caller's statistics and output.
//
//   P = exp(S − max) / sum    dV = (P∘M)ᵀ·dO    dP = (dO·Vᵀ)∘M    Δ = Σ dO∘O    dS = P∘(dP − Δ)
//   dQ = scale·dS·K    dK = scale·dSᵀ·Q    dbias = dS, or scale·dS before the scale
//   dsink = −Σ exp(sink − max) / sum · Δ   over the rows of a head
//
// M = kept / keep_prob.
#include <cfloat>
#include <cmath>
#include <vector>

#include "ref/exact.h"
#include "ref/scores.h"

namespace fusion_attention::ref {
namespace {

// fp64 sums of a gradient, rounded once at the end. Shape as the view's.
class Sums {
 public:
  explicit Sums(const TensorView& view)
      : view_(view),
        sums_(static_cast<std::size_t>(view.batches() * view.heads() * view.rows() * view.channels()), 0.0) {}

  double& at(std::int64_t b, std::int64_t h, std::int64_t r, std::int64_t c) {
    return sums_[static_cast<std::size_t>(((b * view_.heads() + h) * view_.rows() + r) * view_.channels() +
                                          c)];
  }
  void store() {
    for (std::int64_t b = 0; b < view_.batches(); ++b)
      for (std::int64_t h = 0; h < view_.heads(); ++h)
        for (std::int64_t r = 0; r < view_.rows(); ++r)
          for (std::int64_t c = 0; c < view_.channels(); ++c) write(view_, b, h, r, c, at(b, h, r, c));
  }

 private:
  const TensorView& view_;
  std::vector<double> sums_;
};

struct Gradients {
  Sums dq, dk, dv;
  std::vector<double> bias, sink;

  explicit Gradients(const Problem& p)
      : dq(p.query_gradient),
        dk(p.key_gradient),
        dv(p.value_gradient),
        bias(static_cast<std::size_t>(p.bias.gradient ? p.bias.elements : 0), 0.0),
        sink(static_cast<std::size_t>(p.sink ? p.query.heads() : 0), 0.0) {}

  void store(const Problem& p) {
    dq.store(), dk.store(), dv.store();
    for (std::size_t e = 0; e < bias.size(); ++e) p.bias.gradient[e] = static_cast<float>(bias[e]);
    if (!p.sink.gradient) return;
    for (std::size_t n = 0; n < sink.size(); ++n) p.sink.gradient[n] = static_cast<float>(sink[n]);
  }
};

void backward_row(const Problem& p, const Sequence& s, std::int64_t before, std::int64_t n, std::int64_t i,
                  Gradients& gradients) {
  const std::int64_t place = statistics_place(p, s, before, n, i), row = s.row + i, kv = n / p.group();
  const double maximum = p.statistics.max[place], sum = p.statistics.sum[place];
  if (maximum <= -FLT_MAX) return;  // a row that saw nothing gives no gradient
  // 1. Δ = Σ dO∘O, and the sink's part of it
  double delta = 0;
  for (std::int64_t c = 0; c < p.value.channels(); ++c)
    delta += read(p.output_gradient, s.batch, n, row, c) * read(p.output, s.batch, n, row, c);
  if (p.sink) gradients.sink[static_cast<std::size_t>(n)] -= std::exp(p.sink.data[n] - maximum) / sum * delta;
  for (std::int64_t j = 0; j < s.keys; ++j) {
    if (!sees(p, s, n, i, j)) continue;
    const std::int64_t key = s.key + j;
    // 2. P of this pair, and what dropout makes of it
    const double prob = std::exp(score(p, s, n, i, j) - maximum) / sum, kept = kept_factor(p, s, n, i, j);
    // 3. dP, and dV += (P∘M)·dO. A pair that is dropped is 0 whatever P or dP is.
    const double left = kept == 0 ? 0 : prob * kept;
    double dp = 0;
    for (std::int64_t c = 0; c < p.value.channels(); ++c) {
      const double go = read(p.output_gradient, s.batch, n, row, c);
      dp += go * read(p.value, s.batch, kv, key, c);
      gradients.dv.at(s.batch, kv, key, c) += left * go;
    }
    dp = kept == 0 ? 0 : kept * dp;
    // 4. dS, its two products, and the bias'
    const double ds = prob * (dp - delta);
    for (std::int64_t d = 0; d < p.query.channels(); ++d) {
      gradients.dq.at(s.batch, n, row, d) += p.scale * ds * read(p.key, s.batch, kv, key, d);
      gradients.dk.at(s.batch, kv, key, d) += p.scale * ds * read(p.query, s.batch, n, row, d);
    }
    if (p.bias.gradient)
      gradients.bias[static_cast<std::size_t>(bias_place(p, s, n, i, j))] +=
          bias_factor(p, s, i, j) * (p.bias.before_scale ? p.scale * ds : ds);
  }
}

}  // namespace

void backward(const Problem& p) {
  Gradients gradients(p);
  std::int64_t before = 0;
  for (const Sequence& s : p.sequences) {
    for (std::int64_t n = 0; n < p.query.heads(); ++n)
      for (std::int64_t i = 0; i < s.rows; ++i) backward_row(p, s, before, n, i, gradients);
    before += s.rows;
  }
  gradients.store(p);
}

}  // namespace fusion_attention::ref
