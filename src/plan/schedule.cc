#include "plan/schedule.h"

#include <algorithm>
#include <bit>
#include <compare>
#include <numeric>
#include <tuple>
#include <utility>

#include "base/math.h"
#include "plan/tiles.h"
#include "problem/reach.h"

namespace fusion_attention::plan {
namespace {

using kernels::Blocking;

// Query rows, heads of a group together, up to which keys are split: more rows than that are tasks enough, if
// they are not the heads of fewer rows than a task takes at least.
constexpr std::int64_t kFewRows = 512, kLeastTaskRows = 32;
// Keys of a split at least. Merging costs a record of Dv + 2 floats per row and split, 512 keys of arithmetic
// on the row 500 times as much; but a chunk of keys is packed for the rows of one task, so many rows take
// longer ones.
constexpr std::int64_t kLeastKeys = 512, kLeastKeysManyRows = 1024, kManyRows = 64;
// Query rows of a backward split at least. Its dK and dV are cleared, stored and added up once per that many:
// at 512 rows that took some 7 % of the time (fp32, D = 128, 2048 and 4096 rows), hence twice as many.
constexpr std::int64_t kLeastRows = 1024;
// Tasks per thread at least, where there are rows enough.
constexpr std::int64_t kTasksPerThread = 4;
// Tasks of the last round are this much smaller, so that threads end together.
constexpr std::int64_t kLastRound = 4;
// Partials of the backward: of the splits of one head, which bounds their number; and of all splits side by
// side per thread, beyond which heads run theirs as chains.
constexpr std::int64_t kMostHeadFloats = std::int64_t{1} << 29;    // 2 GiB
constexpr std::int64_t kMostThreadFloats = std::int64_t{1} << 26;  // 256 MiB
// Keys of a backward merge: one head must not leave the other threads idle.
constexpr std::int64_t kMergeKeys = 256;

// A quarter of an octave: classes in which the order of tasks is free.
int weight_class(std::int64_t weight) {
  const auto w = static_cast<std::uint64_t>(weight) + 4;
  const int octave = std::bit_width(w) - 3;
  return octave * 4 + static_cast<int>(w >> octave & 3);
}

// Heaviest class first, otherwise in the order made (neighbours share their keys). Linear.
void heavy_first(Schedule& out) {
  constexpr int kClasses = 256;
  std::int64_t place[kClasses + 1] = {};
  for (const Task& t : out.tasks) ++place[kClasses - weight_class(t.weight)];
  if (out.tasks.empty() ||
      place[kClasses - weight_class(out.tasks[0].weight)] == static_cast<std::int64_t>(out.tasks.size()))
    return;
  std::int64_t before = 0;
  for (std::int64_t& p : place) before += std::exchange(p, before);
  out.sorting.resize(out.tasks.size());
  for (const Task& t : out.tasks)
    out.sorting[static_cast<std::size_t>(place[kClasses - weight_class(t.weight)]++)] = t;
  out.tasks.swap(out.sorting);
}

bool tiny(const Blocking& blocking) {
  return blocking.keys < kLeastKeys / 4;
}

// The keys that any row of a sequence sees, from a multiple of 32, and how they are split.
struct KeySplits {
  std::int64_t begin = 0, end = 0;
  std::int64_t step = 0;
};
KeySplits key_splits(const Sequence& s, std::int64_t group, const Blocking& blocking) {
  const KeySplits one{0, s.keys, greater(s.keys, 1)};
  const std::int64_t rows = s.rows * group;
  if (rows == 0 || (rows > kFewRows && s.rows > kLeastTaskRows && !tiny(blocking))) return one;
  const auto [begin, end] = reach(s);
  const std::int64_t least = tiny(blocking)      ? blocking.keys
                             : rows <= kManyRows ? kLeastKeys
                                                 : kLeastKeysManyRows;
  const std::int64_t splits = clamp((end - begin) / least, 1, blocking.splits);
  if (splits == 1) return one;
  return {begin, end, round_up(ceil_div(end - begin, splits), 32)};
}

// Rows of the ordinary tasks and of those of the last round.
struct RowRanges {
  std::int64_t rows, last_rows;
  double last_share;  // of all rows, that the last round takes
};
RowRanges row_ranges(const Problem& problem, const Blocking& blocking, int threads) {
  std::int64_t total = 0;
  for (const Sequence& s : problem.sequences) total += s.rows * problem.key.heads();
  const std::int64_t most = greater(blocking.rows, 32), per_thread = ceil_div(total, threads);
  if (threads == 1 || total == 0) return {most, most, 0};
  const std::int64_t rows = clamp(round_up(ceil_div(per_thread, kTasksPerThread), 32), 32, most);
  return {rows, clamp(round_up(rows / kLastRound, 32), 32, rows),
          std::min(1.0, static_cast<double>(rows) / static_cast<double>(per_thread))};
}

// One row range of kv head 0: a task, or its splits over keys and their merge.
void add_row_range(const Problem& problem, Task task, const KeySplits& keys, Schedule& out) {
  if (keys.end - keys.begin <= keys.step) {
    task.key_end = problem.sequences[static_cast<std::size_t>(task.sequence)].keys;
    out.tasks.push_back(task);
    return;
  }
  const std::int64_t floats =
      problem.group() * (task.row_end - task.row_begin) * (problem.value.channels() + 2);
  Merge merge{
      .sequence = task.sequence, .begin = task.row_begin, .end = task.row_end, .partial = out.partial_floats};
  task.weight = task.weight * keys.step / (keys.end - keys.begin);
  for (std::int64_t key = keys.begin; key < keys.end; key += keys.step, ++merge.splits) {
    task.key_begin = key, task.key_end = lesser(keys.end, key + keys.step);
    task.partial = out.partial_floats;
    out.partial_floats += floats;
    out.tasks.push_back(task);
  }
  out.merges.push_back(merge);
}

// What was added for kv head 0 since the given sizes, for the other heads: head by head, because neighbours
// in the order share the keys of a head.
void repeat_for_heads(std::int64_t kv_heads, std::size_t first_task, std::size_t first_merge,
                      std::int64_t first_float, Schedule& out) {
  const std::size_t tasks = out.tasks.size(), merges = out.merges.size();
  const std::int64_t floats = out.partial_floats - first_float;
  for (std::int64_t head = 1; head < kv_heads; ++head) {
    for (std::size_t i = first_task; i < tasks; ++i) {
      Task task = out.tasks[i];
      task.kv_head = head;
      if (task.partial >= 0) task.partial += head * floats;
      out.tasks.push_back(task);
    }
    for (std::size_t i = first_merge; i < merges; ++i) {
      Merge merge = out.merges[i];
      merge.kv_head = head;
      merge.partial += head * floats;
      out.merges.push_back(merge);
    }
    out.partial_floats += floats;
  }
}

// Rows [begin, end) of a sequence as one split behind the others: `share` is where its floats begin.
kernels::BackwardSplit split_of(const Sequence& s, std::int64_t begin, std::int64_t end, std::int64_t share) {
  const std::int64_t keys = s.key0 + s.keys, first = s.band.row(s.row0 + begin, keys).begin - s.key0,
                     last = s.band.row(s.row0 + end - 1, keys).end - s.key0;
  const std::int64_t key_begin = round_down(clamp(first, 0, s.keys), 32);
  return {end, key_begin, clamp(last, key_begin, s.keys), share};
}

std::int64_t keys_of(const kernels::BackwardSplit& split) {
  return split.key_end - split.key_begin;
}

// The splits of a sequence's rows, so that all have the same number of visible tiles. Returns their floats.
std::int64_t cut_rows(const Sequence& s, std::int64_t splits, std::int64_t tiles, std::int64_t channels,
                      Schedule& out) {
  std::int64_t seen = 0, row = 0, begin = 0, floats = 0;
  const auto cut = [&](std::int64_t end) {
    out.splits.push_back(split_of(s, begin, end, floats));
    const std::int64_t keys = keys_of(out.splits.back());
    out.task_keys = greater(out.task_keys, keys);
    floats += keys * channels;
    begin = end;
  };
  for (std::int64_t split = 1; split < splits; ++split) {
    const std::int64_t most = s.rows - (splits - split) * 32;  // every later split keeps some rows
    do {
      seen += visible_tiles(s, row, lesser(row + 32, s.rows));
      row += 32;
    } while (row < most && seen * splits < tiles * split);
    cut(row);
  }
  cut(s.rows);
  return floats;
}

// `record`: the floats of a split that sees every key.
std::int64_t row_splits(const Sequence& s, const Blocking& blocking, std::int64_t record) {
  const std::int64_t wanted = s.rows / (tiny(blocking) ? blocking.rows : kLeastRows);
  return clamp(lesser(wanted, kMostHeadFloats / greater(record, 1)), 1, blocking.splits);
}

// Sequences whose bias numbers may be the same have equal keys; and heads, if the bias has no head axis.
struct Owner {
  std::int64_t sequences = 0, head = 0;

  friend auto operator<=>(const Owner&, const Owner&) = default;
};
class Owners {
 public:
  explicit Owners(const Problem& problem) : problem_(problem), first_(problem.sequences.size()) {
    std::vector<std::size_t> order(first_.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
      return std::pair(plane(a).base, a) < std::pair(plane(b).base, b);
    });
    std::int64_t end = 0;  // of what the sequences so far reach
    for (std::size_t i = 0; i < order.size(); ++i) {
      const bool apart = i == 0 || plane(order[i]).base >= end;
      first_[order[i]] = apart ? static_cast<std::int64_t>(order[i]) : first_[order[i - 1]];
      end = greater(apart ? 0 : end, plane(order[i]).base + reach(order[i]));
    }
  }

  Owner of(const Task& t) const {
    const auto sequence = static_cast<std::size_t>(t.sequence);
    return {first_[sequence], plane(sequence).head == 0 ? 0 : t.kv_head};
  }

 private:
  const Plane& plane(std::size_t sequence) const { return problem_.sequences[sequence].bias; }
  // Numbers from the first to past the last of a sequence.
  std::int64_t reach(std::size_t sequence) const {
    const Sequence& s = problem_.sequences[sequence];
    const std::int64_t heads = (problem_.query.heads() - 1) * s.bias.head;
    if (problem_.bias.kind != BiasKind::dense) return heads + 1;
    const std::int64_t rows = problem_.bias.last_rows ? problem_.bias.last_rows : s.rows;
    return heads + (rows - 1) * s.bias.row + s.keys;
  }

  const Problem& problem_;
  std::vector<std::int64_t> first_;
};

// Tasks of one owner behind one another, in the order of sequences, heads and rows: the order of the sums.
void group_by_owner(const Problem& problem, Schedule& out) {
  const Owners owners(problem);
  const auto place = [&](const Task& task) {
    return std::tuple(owners.of(task), task.sequence, task.kv_head, task.row_begin);
  };
  std::sort(out.tasks.begin(), out.tasks.end(),
            [&](const Task& a, const Task& b) { return place(a) < place(b); });
  for (std::size_t i = 1; i <= out.tasks.size(); ++i)
    if (i == out.tasks.size() || owners.of(out.tasks[i]) != owners.of(out.tasks[i - 1]))
      out.owners.push_back(static_cast<std::int64_t>(i));
}

// The splits of one head side by side: a task each, and their merge. `floats`: what they leave.
void add_splits(const Problem& problem, Task task, std::int64_t floats, Schedule& out) {
  const Sequence& s = problem.sequences[static_cast<std::size_t>(task.sequence)];
  Merge merge{.sequence = task.sequence,
              .kv_head = task.kv_head,
              .partial = out.partial_floats,
              .split = task.split,
              .splits = static_cast<int>(task.chain)};
  const std::int64_t splits = std::exchange(task.chain, 1);
  task.weight /= splits;
  for (std::int64_t split = 0; split < splits; ++split) {
    const kernels::BackwardSplit& rows = out.splits[static_cast<std::size_t>(task.split + split)];
    task.row_end = rows.row_end;
    task.key_begin = rows.key_begin, task.key_end = rows.key_end;
    task.partial = out.partial_floats + rows.share;
    out.tasks.push_back(task);
    task.row_begin = task.row_end;
  }
  out.partial_floats += floats;
  for (merge.begin = 0; merge.begin < s.keys; merge.begin += kMergeKeys) {
    merge.end = lesser(s.keys, merge.begin + kMergeKeys);
    out.merges.push_back(merge);
  }
}

}  // namespace

void Schedule::clear() {
  tasks.clear();
  merges.clear();
  splits.clear();
  owners.clear();
  partial_floats = chain_floats = task_keys = 0;
}

int useful_threads(const Problem& problem, int threads) {
  constexpr double kScores = 4 * 32 * 32;  // four tiles, some 10 µs
  double scores = 0;
  for (const Sequence& s : problem.sequences) {
    scores += static_cast<double>(s.rows) * static_cast<double>(s.keys) *
              static_cast<double>(problem.query.heads());
    if (scores >= threads * kScores) return threads;
  }
  return std::max(1, static_cast<int>(scores / kScores));
}

void schedule_forward(const Problem& problem, const Blocking& blocking, const Blocking& decode_blocking,
                      int threads, Schedule& out) {
  out.clear();
  const RowRanges ranges = row_ranges(problem, blocking, threads);
  for (std::size_t index = 0; index < problem.sequences.size(); ++index) {
    const Sequence& s = problem.sequences[index];
    const KeySplits keys = key_splits(
        s, problem.group(), is_short(problem, s, decode_blocking.rows) ? decode_blocking : blocking);
    const std::size_t first_task = out.tasks.size(), first_merge = out.merges.size();
    const std::int64_t first_float = out.partial_floats;
    // The first rows make the last round: under a causal mask they are the light ones anyway.
    const auto last_round = static_cast<std::int64_t>(ranges.last_share * static_cast<double>(s.rows));
    Task range{.sequence = static_cast<std::int64_t>(index)};
    for (std::int64_t row = 0; row < s.rows; row = range.row_end) {
      range.row_begin = row;
      range.row_end = lesser(s.rows, row + (row < last_round ? ranges.last_rows : ranges.rows));
      range.weight = threads == 1 ? 0 : visible_tiles(s, row, range.row_end);
      add_row_range(problem, range, keys, out);
    }
    repeat_for_heads(problem.key.heads(), first_task, first_merge, first_float, out);
  }
  if (threads > 1) heavy_first(out);
}

void schedule_backward(const Problem& problem, const Blocking& blocking, int threads, Schedule& out) {
  out.clear();
  const std::int64_t kv_heads = problem.key.heads();
  const std::int64_t channels = problem.key.channels() + problem.value.channels();
  std::int64_t left = 0;  // tiles of the heads that are not scheduled yet
  for (const Sequence& s : problem.sequences) left += visible_tiles(s, 0, s.rows) * kv_heads;
  for (std::size_t index = 0; index < problem.sequences.size(); ++index) {
    const Sequence& s = problem.sequences[index];
    const std::int64_t record = s.keys * channels, splits = row_splits(s, blocking, record);
    const std::int64_t tiles = visible_tiles(s, 0, s.rows);
    Task task{.sequence = static_cast<std::int64_t>(index),
              .row_end = s.rows,
              .key_end = s.keys,
              .split = static_cast<std::int64_t>(out.splits.size()),
              .chain = splits,
              .weight = tiles};
    std::int64_t floats = 0;  // of the splits of a head
    if (splits > 1) {
      floats = cut_rows(s, splits, tiles, channels, out);
    } else {
      out.task_keys = greater(out.task_keys, s.keys);
    }
    for (task.kv_head = 0; task.kv_head < kv_heads; ++task.kv_head) {
      left -= tiles;
      // A head is one task while there is one more like it for every thread; the splits of the last heads
      // are tasks of their own, so that threads end together.
      const bool fits = out.partial_floats == 0 || out.partial_floats + floats <= threads * kMostThreadFloats;
      const bool side_by_side = threads > 1 && left < tiles * threads && fits && !problem.bias.gradient;
      if (splits > 1 && side_by_side) {
        add_splits(problem, task, floats, out);
        continue;
      }
      if (splits > 1) out.chain_floats = greater(out.chain_floats, record);
      out.tasks.push_back(task);
    }
  }
  if (problem.bias.gradient) {
    group_by_owner(problem, out);
  } else if (threads > 1) {
    heavy_first(out);
  }
}

}  // namespace fusion_attention::plan
