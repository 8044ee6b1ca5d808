#include "api/slopes.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/parallel.h"
#include "fusion_attention/run.h"
#include "problem/planes.h"

namespace fusion_attention {
namespace {

double distance(BiasKind kind, const Sequence& sequence, std::int64_t row, std::int64_t key) {
  const double apart = std::abs(static_cast<double>(key - row + sequence.bias_shift));
  return kind == BiasKind::root_distance ? std::sqrt(apart) : apart;
}

}  // namespace

Problem with_dense_slopes(const Problem& problem, SlopeCopies& copies) {
  Problem dense = problem;
  dense.bias.kind = BiasKind::dense;
  natural_bias(dense, {.batch = true, .head = true, .row = true}, Numbering::sequences);
  float* bias = copies.bias.floats(dense.bias.elements);
  dense.bias.data = bias;
  dense.bias.gradient = copies.gradient.floats(dense.bias.elements);
  const auto* slopes = static_cast<const float*>(problem.bias.data);
  const std::int64_t heads = problem.query.heads(),
                     sequences = static_cast<std::int64_t>(problem.sequences.size());
  parallel_for(sequences * heads, thread_count(), [&](std::int64_t task, int) {
    const auto index = static_cast<std::size_t>(task / heads);
    const Sequence& sequence = problem.sequences[index];
    const std::int64_t head = task % heads;
    const double slope = slopes[sequence.bias.base + head * sequence.bias.head];
    float* out = bias + dense.sequences[index].bias.base + head * sequence.rows * sequence.keys;
    for (std::int64_t row = 0; row < sequence.rows; ++row)
      for (std::int64_t key = 0; key < sequence.keys; ++key)
        *out++ = static_cast<float>(-slope * distance(problem.bias.kind, sequence, row, key));
  });
  return dense;
}

void sum_slope_gradient(const Problem& problem, const Problem& dense, std::int64_t count, float* gradient) {
  const std::int64_t heads = problem.query.heads();
  const auto sequences = static_cast<std::int64_t>(problem.sequences.size());
  std::vector<double> sums(static_cast<std::size_t>(sequences * heads));
  parallel_for(sequences * heads, thread_count(), [&](std::int64_t task, int) {
    const auto index = static_cast<std::size_t>(task / heads);
    const Sequence& sequence = problem.sequences[index];
    const float* in =
        dense.bias.gradient + dense.sequences[index].bias.base + task % heads * sequence.rows * sequence.keys;
    double sum = 0;
    for (std::int64_t row = 0; row < sequence.rows; ++row)
      for (std::int64_t key = 0; key < sequence.keys; ++key)
        sum -= *in++ * distance(problem.bias.kind, sequence, row, key);
    sums[static_cast<std::size_t>(task)] = sum;
  });
  std::vector<double> totals(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < sums.size(); ++i) totals[i % totals.size()] += sums[i];
  std::transform(totals.begin(), totals.end(), gradient, [](double sum) { return static_cast<float>(sum); });
}

}  // namespace fusion_attention
