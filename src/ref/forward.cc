// The forward in three loops and double precision. It shares no code with a kernel, so that it can disagree.
//
// query [B, N, Tq, D], key [B, Nkv, Tk, D], value [B, Nkv, Tk, Dv] → output [B, N, Tq, Dv], max and sum per
// (sequence, head, row).
#include <cfloat>
#include <cmath>
#include <vector>

#include "ref/exact.h"
#include "ref/integer.h"
#include "ref/scores.h"
#include "ref/stored.h"

namespace fusion_attention::ref {
namespace {

// What no sequence covers: zero rows, statistics (−FLT_MAX, 1).
void clear(const Problem& p) {
  for (std::int64_t b = 0; b < p.output.batches(); ++b)
    for (std::int64_t n = 0; n < p.output.heads(); ++n)
      for (std::int64_t i = 0; i < p.output.rows(); ++i)
        for (std::int64_t c = 0; c < p.output.channels(); ++c) write(p.output, b, n, i, c, 0);
  if (!p.statistics.max) return;
  const std::int64_t entries = p.query.batches() * p.query.heads() * p.query.rows() * p.statistics.copies;
  for (std::int64_t e = 0; e < entries; ++e) p.statistics.max[e] = -FLT_MAX, p.statistics.sum[e] = 1;
}

// Q of integer.h for channel c of head n.
double quantised(const Problem& p, std::int64_t n, std::int64_t c, double y) {
  const OutputScaling& scaling = p.output_scaling;
  const std::int64_t place = scaling.channels == 1 ? 0 : n * p.value.channels() + c;
  const auto half = [](double x) { return to_float(from_float<f16>(static_cast<float>(x))); };
  float x = half(half(y) * half(scaling.scale[place]));
  if (scaling.offset) x = half(x + half(scaling.offset[place]));
  return std::isnan(x) ? 0 : std::fmax(-128, std::fmin(127, std::nearbyint(x)));
}

void write_statistics(const Problem& p, std::int64_t place, double max, double sum) {
  if (!p.statistics.max) return;
  for (std::int64_t copy = 0; copy < p.statistics.copies; ++copy) {
    p.statistics.max[place + copy] = static_cast<float>(max);
    p.statistics.sum[place + copy] = static_cast<float>(sum);
  }
}

struct Seen {
  std::int64_t key = 0;  // local
  double score = 0;
};

void forward_row(const Problem& p, const Sequence& s, std::int64_t before, std::int64_t n, std::int64_t i) {
  // 1. Scores of the visible keys, and their maximum with the sink.
  std::vector<Seen> seen;
  const double sink = p.sink ? p.sink.data[n] : -INFINITY;
  double maximum = sink;
  bool weighs = false;  // any value: scores of −∞ alone weigh none, not even a NaN
  for (std::int64_t j = 0; j < s.keys; ++j) {
    if (!sees(p, s, n, i, j)) continue;
    const double x = score(p, s, n, i, j);
    seen.push_back({j, x});
    weighs |= x != -INFINITY;
    maximum = std::isnan(x) || std::isnan(maximum) ? NAN : std::fmax(maximum, x);
  }
  if (maximum == -INFINITY) return;  // nothing visible, or every score is −∞: an empty row
  // 2. The sum of exponentials relative to the maximum. +∞ gives ∞ − ∞ = NaN, as IEEE says.
  double sum = std::exp(sink - maximum);
  for (const Seen& one : seen) sum += std::exp(one.score - maximum);
  // 3. The mean of the visible values under them, after dropout; a row that a sink alone makes stays zero.
  std::vector<double> weight;
  for (const Seen& one : seen)
    weight.push_back(std::exp(one.score - maximum) / sum * kept_factor(p, s, n, i, one.key));
  for (std::int64_t c = 0; weighs && c < p.value.channels(); ++c) {
    double out = 0;
    for (std::size_t at = 0; at < seen.size(); ++at)
      out += weight[at] * value_number(p, s, n / p.group(), seen[at].key, c);
    write(p.output, s.batch, n, s.row + i, c, p.output_scaling ? quantised(p, n, c, out) : out);
  }
  // 4. Statistics.
  write_statistics(p, statistics_place(p, s, before, n, i), maximum, sum);
}

void forward_integer_row(const Problem& p, const Sequence& s, std::int64_t before, std::int64_t n,
                         std::int64_t i) {
  const IntegerRow row = integer_row(p, s, n, i);
  if (row.nothing) return;
  for (std::int64_t c = 0; c < p.value.channels(); ++c) {
    const double out = row.out[static_cast<std::size_t>(c)];
    write(p.output, s.batch, n, s.row + i, c, p.output_scaling ? quantised(p, n, c, out) : out);
  }
  write_statistics(p, statistics_place(p, s, before, n, i), row.max, row.sum);
}

}  // namespace

void forward(const Problem& p) {
  clear(p);
  std::int64_t before = 0;
  for (const Sequence& s : p.sequences) {
    for (std::int64_t n = 0; n < p.query.heads(); ++n)
      for (std::int64_t i = 0; i < s.rows; ++i)
        p.query.dtype == Dtype::int8 ? forward_integer_row(p, s, before, n, i)
                                     : forward_row(p, s, before, n, i);
    before += s.rows;
  }
}

}  // namespace fusion_attention::ref
