// The forward in three loops and double precision. It shares no code with a kernel, so that it can disagree.
//
// query [B, N, Tq, D], key [B, Nkv, Tk, D], value [B, Nkv, Tk, Dv] → output [B, N, Tq, Dv], max and sum per
// (sequence, head, row).
#include <cfloat>
#include <cmath>
#include <vector>

#include "ref/exact.h"

namespace fusion_attention::ref {

void forward(const Problem& p) {
  // 0. What no sequence covers: zero rows, statistics (−FLT_MAX, 1).
  for (std::int64_t b = 0; b < p.output.batches(); ++b)
    for (std::int64_t n = 0; n < p.output.heads(); ++n)
      for (std::int64_t i = 0; i < p.output.rows(); ++i)
        for (std::int64_t c = 0; c < p.output.channels(); ++c) write(p.output, b, n, i, c, 0);
  if (p.statistics.max) {
    const std::int64_t entries = p.query.batches() * p.query.heads() * p.query.rows() * p.statistics.copies;
    for (std::int64_t e = 0; e < entries; ++e) p.statistics.max[e] = -FLT_MAX, p.statistics.sum[e] = 1;
  }

  std::int64_t before = 0;
  for (const Sequence& s : p.sequences) {
    for (std::int64_t n = 0; n < p.query.heads(); ++n) {
      const std::int64_t kv = n / p.group();
      for (std::int64_t i = 0; i < s.rows; ++i) {
        // 1. Scores of the visible keys, and their maximum.
        std::vector<double> score(static_cast<std::size_t>(s.keys), 0.0);
        std::vector<bool> visible(static_cast<std::size_t>(s.keys), false);
        double maximum = -INFINITY;
        bool nan = false;
        for (std::int64_t j = 0; j < s.keys; ++j) {
          if (!sees(p, s, n, i, j)) continue;
          double dot = 0;
          for (std::int64_t d = 0; d < p.query.channels(); ++d)
            dot += read(p.query, s.batch, n, s.row + i, d) * read(p.key, s.batch, kv, s.key + j, d);
          visible[static_cast<std::size_t>(j)] = true;
          score[static_cast<std::size_t>(j)] = p.scale * dot;
          nan |= std::isnan(p.scale * dot);
          maximum = std::fmax(maximum, p.scale * dot);
        }
        if (nan) maximum = NAN;
        if (maximum == -INFINITY) continue;  // nothing visible, or every score is −∞: ruling 9
        // 2. Probabilities relative to the maximum, and their sum. +∞ gives ∞ − ∞ = NaN, as IEEE says.
        double sum = 0;
        for (std::int64_t j = 0; j < s.keys; ++j) {
          if (!visible[static_cast<std::size_t>(j)]) continue;
          double& x = score[static_cast<std::size_t>(j)];
          x = std::exp(x - maximum);
          sum += x;
        }
        // 3. The mean of the visible values under them.
        for (std::int64_t c = 0; c < p.value.channels(); ++c) {
          double out = 0;
          for (std::int64_t j = 0; j < s.keys; ++j)
            if (visible[static_cast<std::size_t>(j)])
              out += score[static_cast<std::size_t>(j)] * read(p.value, s.batch, kv, s.key + j, c);
          write(p.output, s.batch, n, s.row + i, c, out / sum);
        }
        // 4. Statistics.
        if (!p.statistics.max) continue;
        const std::int64_t place = statistics_place(p, s, before, n, i);
        for (std::int64_t copy = 0; copy < p.statistics.copies; ++copy) {
          p.statistics.max[place + copy] = static_cast<float>(maximum);
          p.statistics.sum[place + copy] = static_cast<float>(sum);
        }
      }
    }
    before += s.rows;
  }
}

}  // namespace fusion_attention::ref
