#include "plan/uncovered.h"

#include <algorithm>
#include <cfloat>
#include <cstring>

namespace fusion_attention::plan {

// What `covered` leaves of [0, size) in each batch.
std::vector<Uncovered::Range> Uncovered::gaps(std::vector<Range> covered, std::int64_t batches,
                                              std::int64_t size) {
  std::sort(covered.begin(), covered.end(), [](const Range& a, const Range& b) {
    return a.batch != b.batch ? a.batch < b.batch : a.begin < b.begin;
  });
  std::vector<Range> left;
  auto next = covered.begin();
  for (std::int64_t batch = 0; batch < batches; ++batch) {
    std::int64_t at = 0;
    for (; next != covered.end() && next->batch == batch; ++next) {
      if (next->begin > at) left.push_back({batch, at, next->begin});
      at = std::max(at, next->end);
    }
    if (at < size) left.push_back({batch, at, size});
  }
  return left;
}

void Uncovered::clear(const TensorView& view, const Range& range) {
  if (!view.data) return;
  for (std::int64_t head = 0; head < view.heads(); ++head)
    for (std::int64_t row = range.begin; row < range.end; ++row)
      std::memset(static_cast<std::byte*>(view.data) +
                      (range.batch * view.stride[0] + head * view.stride[1] + row * view.stride[2]) *
                          size_of(view.dtype),
                  0, static_cast<std::size_t>(view.channels() * size_of(view.dtype)));
}

Uncovered::Uncovered(const Problem& problem) : problem_(problem) {
  const std::int64_t batches = problem.query.batches();
  std::int64_t keys = 0;
  for (const Sequence& s : problem.sequences) covered_rows_ += s.rows, keys += s.keys;
  if (covered_rows_ != batches * problem.query.rows()) {
    std::vector<Range> covered;
    for (const Sequence& s : problem.sequences) covered.push_back({s.batch, s.row, s.row + s.rows});
    rows_ = gaps(std::move(covered), batches, problem.query.rows());
  }
  if (problem.pass == Pass::backward && keys != batches * problem.key.rows()) {
    std::vector<Range> covered;
    for (const Sequence& s : problem.sequences) covered.push_back({s.batch, s.key, s.key + s.keys});
    keys_ = gaps(std::move(covered), batches, problem.key.rows());
  }
}

void Uncovered::fill() const {
  const bool backward = problem_.pass == Pass::backward;
  for (const Range& gap : rows_) clear(backward ? problem_.query_gradient : problem_.output, gap);
  for (const Range& gap : keys_) {
    clear(problem_.key_gradient, gap);
    clear(problem_.value_gradient, gap);
  }
  const Statistics& s = problem_.statistics;
  if (backward || !s.max) return;
  const TensorView& query = problem_.query;
  const std::int64_t first = covered_rows_ * query.heads() * s.copies;
  const std::int64_t last = query.batches() * query.rows() * query.heads() * s.copies;
  std::fill(s.max + first, s.max + std::max(first, last), -FLT_MAX);
  std::fill(s.sum + first, s.sum + std::max(first, last), 1.0f);
}

}  // namespace fusion_attention::plan
