#include "plan/sink.h"

#include <cfloat>
#include <cmath>

#include "base/half.h"
#include "base/parallel.h"
#include "fusion_attention/run.h"
#include "plan/rows.h"
#include "problem/typed.h"

namespace fusion_attention::plan {
namespace {

template <class T>
double delta(const Problem& p, const Sequence& s, std::int64_t head, std::int64_t i) {
  const auto* d_o = reinterpret_cast<const T*>(row_at(p.output_gradient, s.batch, head, s.row + i));
  const auto* o = reinterpret_cast<const T*>(row_at(p.output, s.batch, head, s.row + i));
  double sum = 0;
  for (std::int64_t c = 0; c < p.output.channels(); ++c)
    sum += static_cast<double>(to_float(d_o[c])) * static_cast<double>(to_float(o[c]));
  return sum;
}

double delta(const Problem& p, const Sequence& s, std::int64_t head, std::int64_t i) {
  return with_floating_type(p.query.dtype, [&](auto type) { return delta<decltype(type)>(p, s, head, i); });
}

}  // namespace

void sink_gradient(const Problem& p, const std::vector<std::int64_t>& rows_before) {
  const std::int64_t heads = p.query.heads();
  const bool head_major = p.statistics.order == StatisticsOrder::head_major;
  parallel_for(heads, thread_count(), [&](std::int64_t head, int) {
    const double sink = static_cast<double>(p.sink.data[head]);
    double sum = 0;
    for (std::size_t index = 0; index < p.sequences.size(); ++index) {
      const Sequence& s = p.sequences[index];
      for (std::int64_t i = 0; i < s.rows; ++i) {
        const std::int64_t before = rows_before[index];
        const std::int64_t entry =
            (before * heads + (head_major ? head * s.rows + i : i * heads + head)) * p.statistics.copies;
        const double max = static_cast<double>(p.statistics.max[entry]);
        const double total = static_cast<double>(p.statistics.sum[entry]);
        if (max <= -FLT_MAX) continue;  // a row of no statistics
        sum -= std::exp(sink - max) / total * delta(p, s, head, i);
      }
    }
    p.sink.gradient[head] = static_cast<float>(sum);
  });
}

}  // namespace fusion_attention::plan
