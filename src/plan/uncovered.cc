#include "plan/uncovered.h"

#include <algorithm>
#include <cfloat>
#include <cstring>

#include "plan/rows.h"

namespace fusion_attention::plan {

// What `covered_` leaves of [0, size) in each batch.
void Uncovered::gaps(std::int64_t batches, std::int64_t size, std::vector<Range>& out) {
  std::sort(covered_.begin(), covered_.end(), [](const Range& a, const Range& b) {
    return a.batch != b.batch ? a.batch < b.batch : a.begin < b.begin;
  });
  auto next = covered_.begin();
  for (std::int64_t batch = 0; batch < batches; ++batch) {
    std::int64_t at = 0;
    for (; next != covered_.end() && next->batch == batch; ++next) {
      if (next->begin > at) out.push_back({batch, at, next->begin});
      at = std::max(at, next->end);
    }
    if (at < size) out.push_back({batch, at, size});
  }
}

void Uncovered::clear(const TensorView& view, const Range& range) {
  if (!view.data) return;
  for (std::int64_t head = 0; head < view.heads(); ++head)
    for (std::int64_t row = range.begin; row < range.end; ++row)
      std::memset(row_at(view, range.batch, head, row), 0,
                  static_cast<std::size_t>(view.channels() * size_of(view.dtype)));
}

void Uncovered::find(const Problem& problem) {
  const std::int64_t batches = problem.query.batches();
  std::int64_t keys = 0;
  covered_rows_ = 0;
  rows_.clear(), keys_.clear();
  for (const Sequence& s : problem.sequences) covered_rows_ += s.rows, keys += s.keys;
  if (covered_rows_ != batches * problem.query.rows()) {
    covered_.clear();
    for (const Sequence& s : problem.sequences) covered_.push_back({s.batch, s.row, s.row + s.rows});
    gaps(batches, problem.query.rows(), rows_);
  }
  if (problem.pass == Pass::backward && keys != batches * problem.key.rows()) {
    covered_.clear();
    for (const Sequence& s : problem.sequences) covered_.push_back({s.batch, s.key, s.key + s.keys});
    gaps(batches, problem.key.rows(), keys_);
  }
}

void Uncovered::fill(const Problem& problem) const {
  const bool backward = problem.pass == Pass::backward;
  for (const Range& gap : rows_) clear(backward ? problem.query_gradient : problem.output, gap);
  for (const Range& gap : keys_) {
    clear(problem.key_gradient, gap);
    clear(problem.value_gradient, gap);
  }
  const Statistics& s = problem.statistics;
  if (backward || !s.max) return;
  const TensorView& query = problem.query;
  const std::int64_t first = covered_rows_ * query.heads() * s.copies;
  const std::int64_t last = query.batches() * query.rows() * query.heads() * s.copies;
  std::fill(s.max + first, s.max + std::max(first, last), -FLT_MAX);
  std::fill(s.sum + first, s.sum + std::max(first, last), 1.0f);
}

}  // namespace fusion_attention::plan
