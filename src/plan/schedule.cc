#include "plan/schedule.h"

#include <algorithm>

#include "base/math.h"

namespace fusion_attention::plan {
namespace {

// Splits change the order of a sum, so they depend on the one sequence alone: a slice of a batch is bitwise
// the same computed alone, and on any number of threads.
//
// Keys below which another split costs more (its merge, its part of a chunk) than it gains.
constexpr std::int64_t kLeastKeys = 512;
// Query rows, heads of a group together, from which row ranges give enough tasks and splits over keys none.
constexpr std::int64_t kFewRows = 64;
// Query rows per split of the backward: its dK and dV buffers are added up once per that many.
constexpr std::int64_t kLeastRows = 512;
// Long tasks per thread: with short ones at the end, what is left over is below 3 % of the work
// (schedule_test.cc).
constexpr std::int64_t kTasksPerThread = 6;

std::int64_t cost(const Sequence& s, const Task& t) {
  return visible_pairs(s, t.row_begin, t.row_end);
}

void heavy_first(const Problem& problem, Schedule& out) {
  const auto weight = [&](const Task& t) {
    const Sequence& s = problem.sequences[static_cast<std::size_t>(t.sequence)];
    return cost(s, t) * (t.key_end - t.key_begin + 1) / (s.keys + 1);
  };
  std::stable_sort(out.tasks.begin(), out.tasks.end(),
                   [&](const Task& a, const Task& b) { return weight(a) > weight(b); });
}

std::int64_t total_rows(const Problem& problem) {
  std::int64_t rows = 0;
  for (const Sequence& s : problem.sequences) rows += s.rows;
  return rows;
}

bool tiny(const kernels::Blocking& blocking) {
  return blocking.keys < kLeastKeys / 4;
}

std::int64_t key_splits(const Problem& problem, const Sequence& s, const kernels::Blocking& blocking) {
  if (tiny(blocking)) return std::clamp<std::int64_t>(s.keys / blocking.keys, 1, blocking.splits);
  if (s.rows * problem.group() > kFewRows) return 1;
  return std::clamp<std::int64_t>(s.keys / kLeastKeys, 1, blocking.splits);
}

std::int64_t row_splits(const Sequence& s, const kernels::Blocking& blocking) {
  return std::clamp<std::int64_t>(s.rows / (tiny(blocking) ? blocking.rows : kLeastRows), 1, blocking.splits);
}

}  // namespace

std::int64_t visible_pairs(const Sequence& s, std::int64_t begin, std::int64_t end) {
  if (begin >= end) return 0;
  const auto seen = [&](std::int64_t row) {
    const Interval keys = s.band.row(s.row0 + row, s.key0 + s.keys);
    return Interval{std::max<std::int64_t>(keys.begin - s.key0, 0), keys.end - s.key0}.size();
  };
  return (end - begin) * (seen(begin) + seen(end - 1)) / 2;
}

void schedule_forward(const Problem& problem, const kernels::Blocking& blocking, int threads, Schedule& out) {
  out.clear();
  const std::int64_t kv_heads = problem.key.heads(), group = problem.group();
  // Rows per task: the table's, or fewer where that would leave threads without work. The last quarter of a
  // head goes in tasks a quarter as long, which come last and even out what the long ones leave.
  const std::int64_t per_thread = ceil_div(total_rows(problem) * kv_heads, threads * kTasksPerThread);
  const std::int64_t longest =
      threads == 1 ? blocking.rows : std::clamp<std::int64_t>(round_up(per_thread, 32), 32, blocking.rows);
  const std::int64_t shortest = threads == 1 ? longest : round_up(ceil_div(longest, 4), 32);
  const std::int64_t record = problem.value.channels() + 2;
  for (std::size_t index = 0; index < problem.sequences.size(); ++index) {
    const Sequence& s = problem.sequences[index];
    const std::int64_t splits = key_splits(problem, s, blocking);
    const std::int64_t keys = round_up(ceil_div(s.keys, splits), blocking.round_trip);
    for (std::int64_t head = 0; head < kv_heads; ++head)
      for (std::int64_t row = 0, end = 0; row < s.rows; row = end) {
        end = std::min(s.rows, row + (row < s.rows * 3 / 4 ? longest : shortest));
        Task task{
            .sequence = static_cast<std::int64_t>(index), .kv_head = head, .row_begin = row, .row_end = end};
        if (keys >= s.keys) {
          task.key_end = s.keys;
          out.tasks.push_back(task);
          continue;
        }
        Merge merge{.sequence = task.sequence,
                    .kv_head = head,
                    .begin = row,
                    .end = end,
                    .partial = out.partial_floats};
        for (std::int64_t key = 0; key < s.keys; key += keys, ++merge.splits) {
          task.key_begin = key, task.key_end = std::min(s.keys, key + keys),
          task.partial = out.partial_floats;
          out.partial_floats += group * (end - row) * record;
          out.tasks.push_back(task);
        }
        out.merges.push_back(merge);
      }
  }
  if (threads > 1) heavy_first(problem, out);
}

void schedule_backward(const Problem& problem, const kernels::Blocking& blocking, Schedule& out) {
  out.clear();
  const std::int64_t kv_heads = problem.key.heads();
  for (std::size_t index = 0; index < problem.sequences.size(); ++index) {
    const Sequence& s = problem.sequences[index];
    const std::int64_t splits = row_splits(s, blocking);
    const std::int64_t record = s.keys * (problem.key.channels() + problem.value.channels());
    const std::int64_t all = visible_pairs(s, 0, s.rows);
    for (std::int64_t head = 0; head < kv_heads; ++head) {
      Merge merge{.sequence = static_cast<std::int64_t>(index),
                  .kv_head = head,
                  .begin = 0,
                  .end = s.keys,
                  .partial = out.partial_floats};
      std::int64_t row = 0;
      for (std::int64_t split = 1; split <= splits; ++split, ++merge.splits) {
        // The range ends where the pairs so far reach split / splits of all.
        std::int64_t low = row, high = s.rows;
        while (split < splits && high - low > 32) {
          const std::int64_t middle = round_up((low + high) / 2, 32);
          if (middle >= high) break;
          (visible_pairs(s, 0, middle) * splits < all * split ? low : high) = middle;
        }
        Task task{.sequence = merge.sequence,
                  .kv_head = head,
                  .row_begin = row,
                  .row_end = high,
                  .key_end = s.keys};
        if (splits > 1) {
          task.partial = out.partial_floats;
          out.partial_floats += record;
        }
        out.tasks.push_back(task);
        row = high;
      }
      if (splits == 1) continue;
      // Merging is parallel over keys too: one head must not leave the others idle.
      constexpr std::int64_t kKeys = 256;
      for (merge.begin = 0; merge.begin < s.keys; merge.begin += kKeys) {
        merge.end = std::min(s.keys, merge.begin + kKeys);
        out.merges.push_back(merge);
      }
    }
  }
  heavy_first(problem, out);
}

}  // namespace fusion_attention::plan
