// The backward in plain loops and double precision, from the caller's statistics and output.
//
//   P = exp(S − max) / sum    dV = Pᵀ·dO    dP = dO·Vᵀ    Δ = Σ dO∘O    dS = P∘(dP − Δ)
//   dQ = scale·dS·K    dK = scale·dSᵀ·Q
#include <cfloat>
#include <cmath>
#include <vector>

#include "ref/exact.h"

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

}  // namespace

void backward(const Problem& p) {
  Sums dq(p.query_gradient), dk(p.key_gradient), dv(p.value_gradient);
  std::int64_t before = 0;
  for (const Sequence& s : p.sequences) {
    for (std::int64_t n = 0; n < p.query.heads(); ++n) {
      const std::int64_t kv = n / p.group();
      for (std::int64_t i = 0; i < s.rows; ++i) {
        const std::int64_t place = statistics_place(p, s, before, n, i), row = s.row + i;
        const double maximum = p.statistics.max[place], sum = p.statistics.sum[place];
        if (maximum <= -FLT_MAX) continue;  // a row that saw nothing gives no gradient
        // 1. Δ = Σ dO∘O
        double delta = 0;
        for (std::int64_t c = 0; c < p.value.channels(); ++c)
          delta += read(p.output_gradient, s.batch, n, row, c) * read(p.output, s.batch, n, row, c);
        for (std::int64_t j = 0; j < s.keys; ++j) {
          if (!sees(p, s, n, i, j)) continue;
          const std::int64_t key = s.key + j;
          // 2. P of this pair
          double dot = 0, dp = 0;
          for (std::int64_t d = 0; d < p.query.channels(); ++d)
            dot += read(p.query, s.batch, n, row, d) * read(p.key, s.batch, kv, key, d);
          const double prob = std::exp(p.scale * dot - maximum) / sum;
          // 3. dP, and dV += P·dO
          for (std::int64_t c = 0; c < p.value.channels(); ++c) {
            const double go = read(p.output_gradient, s.batch, n, row, c);
            dp += go * read(p.value, s.batch, kv, key, c);
            dv.at(s.batch, kv, key, c) += prob * go;
          }
          // 4. dS, and its two products
          const double ds = p.scale * prob * (dp - delta);
          for (std::int64_t d = 0; d < p.query.channels(); ++d) {
            dq.at(s.batch, n, row, d) += ds * read(p.key, s.batch, kv, key, d);
            dk.at(s.batch, kv, key, d) += ds * read(p.query, s.batch, n, row, d);
          }
        }
      }
    }
    before += s.rows;
  }
  dq.store();
  dk.store();
  dv.store();
}

}  // namespace fusion_attention::ref
