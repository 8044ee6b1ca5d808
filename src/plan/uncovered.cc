#include "plan/uncovered.h"

#include <algorithm>
#include <cfloat>
#include <cstring>
#include <vector>

namespace fusion_attention::plan {
namespace {

struct Range {
  std::int64_t batch, begin, end;
};

// What `covered` leaves of [0, size) in each batch.
std::vector<Range> gaps(std::vector<Range> covered, std::int64_t batches, std::int64_t size) {
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

void clear(const TensorView& view, const Range& range) {
  if (!view.data) return;
  for (std::int64_t head = 0; head < view.heads(); ++head)
    for (std::int64_t row = range.begin; row < range.end; ++row)
      std::memset(static_cast<std::byte*>(view.data) +
                      (range.batch * view.stride[0] + head * view.stride[1] + row * view.stride[2]) *
                          size_of(view.dtype),
                  0, static_cast<std::size_t>(view.channels() * size_of(view.dtype)));
}

}  // namespace

void fill_uncovered(const Problem& problem, std::int64_t rows) {
  const bool backward = problem.pass == Pass::backward;
  std::int64_t keys = 0;
  for (const Sequence& s : problem.sequences) keys += s.keys;
  const std::int64_t batches = problem.query.batches();
  if (rows != batches * problem.query.rows()) {
    std::vector<Range> covered;
    for (const Sequence& s : problem.sequences) covered.push_back({s.batch, s.row, s.row + s.rows});
    for (const Range& gap : gaps(std::move(covered), batches, problem.query.rows()))
      clear(backward ? problem.query_gradient : problem.output, gap);
  }
  if (backward && keys != batches * problem.key.rows()) {
    std::vector<Range> covered;
    for (const Sequence& s : problem.sequences) covered.push_back({s.batch, s.key, s.key + s.keys});
    for (const Range& gap : gaps(std::move(covered), batches, problem.key.rows())) {
      clear(problem.key_gradient, gap);
      clear(problem.value_gradient, gap);
    }
  }
  const Statistics& s = problem.statistics;
  if (backward || !s.max) return;
  const std::int64_t first = rows * problem.query.heads() * s.copies;
  const std::int64_t last = batches * problem.query.rows() * problem.query.heads() * s.copies;
  std::fill(s.max + first, s.max + std::max(first, last), -FLT_MAX);
  std::fill(s.sum + first, s.sum + std::max(first, last), 1.0f);
}

}  // namespace fusion_attention::plan
