// The division of work, without arithmetic: every visible pair in exactly one task, splits from the sequence
// alone, balance.
#include "plan/schedule.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <queue>
#include <set>
#include <vector>

#include "plan/tiles.h"
#include "support/random.h"
#include "support/random_problem.h"

namespace fusion_attention::plan {
namespace {

using kernels::Blocking;

constexpr Blocking kOrdinary{512, 512, 256, 16}, kDecode{16, 1024, 256, 16}, kBackward{256, 128, 128, 16},
    kTinyBlocking{32, 64, 64, 2};

// The kernel's view: its tasks, chains unrolled.
std::vector<Task> unrolled(const Schedule& schedule) {
  std::vector<Task> all;
  for (Task t : schedule.tasks) {
    const std::int64_t chain = std::exchange(t.chain, 1);
    for (std::int64_t i = 0; chain > 1 && i < chain; ++i) {
      const kernels::BackwardSplit& split = schedule.splits[static_cast<std::size_t>(t.split + i)];
      t.row_end = split.row_end, t.key_begin = split.key_begin, t.key_end = split.key_end;
      all.push_back(t);
      t.row_begin = t.row_end;
    }
    if (chain == 1) all.push_back(t);
  }
  return all;
}

Schedule scheduled(const Problem& p, bool tiny, int threads) {
  Schedule out;
  if (p.pass == Pass::forward) {
    schedule_forward(p, tiny ? kTinyBlocking : kOrdinary, tiny ? kTinyBlocking : kDecode, threads, out);
  } else {
    schedule_backward(p, tiny ? kTinyBlocking : kBackward, threads, out);
  }
  return out;
}

// Forward: row ranges × key ranges. Backward: a row range meets every key that any of its rows sees.
void expect_covered(const Problem& p, const Schedule& schedule, const std::string& which) {
  for (std::int64_t index = 0; index < static_cast<std::int64_t>(p.sequences.size()); ++index) {
    const Sequence& s = p.sequences[static_cast<std::size_t>(index)];
    for (std::int64_t head = 0; head < p.key.heads(); ++head) {
      std::vector<int> times(static_cast<std::size_t>(s.rows * s.keys));
      bool row_met = s.rows == 0;
      for (const Task& t : unrolled(schedule)) {
        if (t.sequence != index || t.kv_head != head) continue;
        ASSERT_TRUE(t.row_begin % 32 == 0 && t.key_begin % 32 == 0) << which;
        ASSERT_TRUE(t.row_end <= s.rows && t.key_end <= s.keys) << which;
        row_met |= t.row_begin < t.row_end;
        for (std::int64_t i = t.row_begin; i < t.row_end; ++i)
          for (std::int64_t j = t.key_begin; j < t.key_end; ++j)
            ++times[static_cast<std::size_t>(i * s.keys + j)];
      }
      EXPECT_TRUE(row_met) << "rows without a task: " << which;
      for (std::int64_t i = 0; i < s.rows; ++i) {
        const Interval sees = s.band.row(s.row0 + i, s.key0 + s.keys);
        for (std::int64_t j = 0; j < s.keys; ++j) {
          const int n = times[static_cast<std::size_t>(i * s.keys + j)];
          const bool visible = s.key0 + j >= sees.begin && s.key0 + j < sees.end;
          ASSERT_TRUE(n == 1 || (n == 0 && !visible))
              << "pair " << i << ", " << j << " of sequence " << index << " in " << n << " tasks: " << which;
        }
      }
    }
  }
}

// Merges name exactly the tasks that left partials, in order, and cover their rows (keys).
void expect_merged(const Problem& p, const Schedule& schedule, const std::string& which) {
  std::multiset<std::int64_t> left, taken;
  for (const Task& t : schedule.tasks)
    if (t.partial >= 0) left.insert(t.partial);
  const std::int64_t channels = p.key.channels() + p.value.channels();
  for (const Merge& m : schedule.merges) {
    const bool forward = p.pass == Pass::forward;
    if (!forward && m.begin > 0) continue;  // another part of the same partials
    const std::int64_t record = p.group() * (m.end - m.begin) * (p.value.channels() + 2);
    std::int64_t end = 0;
    for (int i = 0; i < m.splits; ++i) {
      const auto& split = forward ? kernels::BackwardSplit{.share = i * record}
                                  : schedule.splits[static_cast<std::size_t>(m.split + i)];
      EXPECT_EQ(split.share, end) << which;  // one behind the other
      end = split.share + (forward ? record : (split.key_end - split.key_begin) * channels);
      taken.insert(m.partial + split.share);
    }
    EXPECT_LE(m.partial + end, schedule.partial_floats) << which;
  }
  EXPECT_EQ(left, taken) << which;
}

TEST(Schedule, CoversEveryVisiblePairOnce) {
  for (int i = 0; i < 300; ++i) {
    const std::uint64_t seed =
        i % 2 ? testing::seed() + static_cast<std::uint64_t>(i) : static_cast<std::uint64_t>(i);
    for (const Pass pass : {Pass::forward, Pass::backward}) {
      Problem p = testing::random_case(seed, pass)->problem;
      if (i % 3 == 0)
        for (Sequence& s : p.sequences) s.row0 = static_cast<std::int64_t>(seed % 97), s.key0 = 40;
      const bool tiny = i / 2 % 2;
      const int threads = 1 + i % 9;
      const std::string which = text(p) + (tiny ? ", tiny, " : ", ") + std::to_string(threads) +
                                " threads, seed " + std::to_string(seed);
      const Schedule schedule = scheduled(p, tiny, threads);
      expect_covered(p, schedule, which);
      expect_merged(p, schedule, which);
      if (HasFailure()) return;
    }
  }
}

// What changes a sum: the key ranges of each row (forward), the row ranges of each head (backward).
std::set<std::vector<std::int64_t>> sums(const Problem& p, const Schedule& schedule, std::int64_t sequence) {
  std::set<std::vector<std::int64_t>> all;
  for (const Task& t : unrolled(schedule)) {
    if (t.sequence != sequence) continue;
    if (p.pass == Pass::backward) all.insert({t.row_begin, t.row_end});
    for (std::int64_t row = t.row_begin; p.pass == Pass::forward && row < t.row_end; row += 32)
      all.insert({row, t.key_begin, t.key_end});
  }
  return all;
}

TEST(Schedule, SplitsFollowFromTheSequenceAlone) {
  struct Size {
    std::int64_t rows, keys;
  };
  for (const Pass pass : {Pass::forward, Pass::backward})
    for (const auto& [rows, keys] : {Size{1, 32768}, {3, 5000}, {100, 9000}, {3000, 3000}, {8192, 4096}})
      for (const Band& band :
           {Band{}, Band{.hi = keys - rows}, Band{.lo = keys - rows - 700, .hi = keys - rows}}) {
        const Problem alone = dense_problem(pass, Dtype::float32, 1, 4, 1, rows, keys, 64, 64, 1, band);
        Problem batch = dense_problem(pass, Dtype::float32, 7, 24, 6, rows + 40, keys + 40, 64, 64, 1, band);
        batch.sequences[3].rows = rows, batch.sequences[3].keys = keys;
        for (const bool tiny : {false, true}) {
          const auto wanted = sums(alone, scheduled(alone, tiny, 1), 0);
          for (const int threads : {1, 2, 3, 8, 64}) {
            EXPECT_EQ(sums(alone, scheduled(alone, tiny, threads), 0), wanted) << text(alone) << threads;
            EXPECT_EQ(sums(batch, scheduled(batch, tiny, threads), 3), wanted) << text(batch) << threads;
          }
        }
      }
}

// Tasks taken in order by whichever of `threads` is free: the mean against the longest.
double balance(const Schedule& schedule, const Problem& p, int threads) {
  std::priority_queue<double, std::vector<double>, std::greater<>> free;
  for (int i = 0; i < threads; ++i) free.push(0);
  double all = 0, last = 0;
  for (const Task& t : schedule.tasks) {
    const Sequence& s = p.sequences[static_cast<std::size_t>(t.sequence)];
    const bool of_keys = p.pass == Pass::forward;  // the backward's keys are those that its rows see
    const double share =
        of_keys ? static_cast<double>(t.key_end - t.key_begin) / static_cast<double>(s.keys) : 1;
    const double work = static_cast<double>(visible_tiles(s, t.row_begin, t.row_end)) * share;
    const double end = free.top() + work;
    free.pop(), free.push(end);
    all += work, last = std::max(last, end);
  }
  return all / (last * threads);
}

Problem packed(Pass pass, std::int64_t heads, std::vector<std::int64_t> lengths, const Band& band) {
  std::int64_t total = 0;
  for (const std::int64_t n : lengths) total += n;
  Problem p = dense_problem(pass, Dtype::bfloat16, 1, heads, heads, total, total, 128, 128, 1, band);
  p.sequences.clear();
  total = 0;
  for (const std::int64_t n : lengths) {
    p.sequences.push_back({.batch = 0, .row = total, .rows = n, .key = total, .keys = n, .band = band});
    total += n;
  }
  return p;
}

// Of the backward's splits there are as many as the sequence says, so the last round may be a whole one: with
// 33 heads of 16 splits on 64 threads, 8.25 rounds take 9.
TEST(Schedule, IsBalanced) {
  const Band full, causal{.hi = 0}, window{.lo = -1023, .hi = 0};
  for (const Pass pass : {Pass::forward, Pass::backward})
    for (const Band& band : {full, causal, window})
      for (const int threads : {2, 16, 64}) {
        std::vector<Problem> problems;
        problems.push_back(dense_problem(pass, Dtype::bfloat16, 1, 32, 8, 16384, 16384, 128, 128, 1, band));
        problems.push_back(dense_problem(pass, Dtype::bfloat16, 1, 33, 33, 16384, 16384, 128, 128, 1, band));
        problems.push_back(dense_problem(pass, Dtype::bfloat16, 5, 27, 27, 4096, 4096, 128, 128, 1, band));
        problems.push_back(
            packed(pass, 8, {16000, 37, 4099, 8191, 1, 2000, 12345, 700, 9000, 6000, 11111, 7}, band));
        for (const Problem& p : problems) {
          const Schedule schedule = scheduled(p, false, threads);
          EXPECT_GE(balance(schedule, p, threads), pass == Pass::forward ? 0.97 : 0.91)
              << text(p).substr(0, 90) << " on " << threads << " threads, " << schedule.tasks.size()
              << " tasks";
        }
      }
}

TEST(Schedule, OneHeadStillFeedsManyThreads) {
  for (const std::int64_t length : {8192, 32768}) {
    const Problem p =
        dense_problem(Pass::backward, Dtype::bfloat16, 1, 1, 1, length, length, 128, 128, 1, {.hi = 0});
    const Schedule schedule = scheduled(p, false, 8);
    EXPECT_GE(schedule.tasks.size(), 8u);
    EXPECT_GE(balance(schedule, p, 8), 0.95) << text(p);
  }
  const Problem decode = dense_problem(Pass::forward, Dtype::bfloat16, 1, 4, 1, 1, 32768, 128, 128, 1, {});
  EXPECT_EQ(scheduled(decode, false, 16).tasks.size(), 16u);
  // Of a window only what is seen is split.
  const Problem window =
      dense_problem(Pass::forward, Dtype::bfloat16, 1, 4, 1, 1, 32768, 128, 128, 1, {.lo = 32767 - 8191});
  const Schedule schedule = scheduled(window, false, 16);
  EXPECT_EQ(schedule.tasks.size(), 16u);
  for (const Task& t : schedule.tasks) EXPECT_EQ(t.key_end - t.key_begin, 512);
}

TEST(Schedule, PartialsOfTheBackwardStayBounded) {
  const Problem p = dense_problem(Pass::backward, Dtype::bfloat16, 4, 64, 64, 65536, 65536, 128, 128, 1, {});
  for (const int threads : {1, 2, 64}) {
    const Schedule schedule = scheduled(p, false, threads);
    EXPECT_LE(schedule.partial_floats, threads * (std::int64_t{1} << 28));  // 1 GiB per thread
    EXPECT_EQ(schedule.chain_floats, 65536 * 256);
  }
}

// Of a window a split holds the keys that its rows see, in partials and in scratch.
TEST(Schedule, SplitsOfTheBackwardHoldWhatTheirRowsSee) {
  constexpr std::int64_t kLength = 65536, kWindow = 1024, kChannels = 128;
  const Problem p = dense_problem(Pass::backward, Dtype::float32, 1, 1, 1, kLength, kLength, 64, 64, 1,
                                  {.lo = 1 - kWindow, .hi = 0});
  const Schedule two = scheduled(p, false, 2);
  const auto splits = static_cast<std::int64_t>(two.splits.size());
  EXPECT_GE(splits, 8);
  EXPECT_LE(two.partial_floats, (kLength + splits * (kWindow + 32)) * kChannels);
  EXPECT_LE(two.task_keys, kLength / splits * 5 / 4 + kWindow);
  EXPECT_EQ(scheduled(p, false, 1).chain_floats, kLength * kChannels);
}

// Tasks that add to the same number of a bias gradient belong to one owner, on any number of threads.
TEST(Schedule, ABiasNumberHasOneOwner) {
  constexpr std::int64_t kBatches = 3, kHeads = 2, kSize = 2100;
  for (int axes = 0; axes < 8; ++axes)
    for (const int threads : {1, 8}) {
      Problem p = dense_problem(Pass::backward, Dtype::float32, kBatches, kHeads, kHeads, kSize, kSize, 16,
                                16, 1, {});
      float gradient = 0;
      p.bias.kind = BiasKind::dense, p.bias.gradient = &gradient;
      const std::int64_t row = axes & 1 ? kSize : 0, plane = row ? kSize * kSize : kSize;
      const std::int64_t head = axes & 2 ? plane : 0, batch = axes & 4 ? (head ? kHeads * plane : plane) : 0;
      for (Sequence& s : p.sequences) s.bias = {s.batch * batch, head, row};
      const Schedule schedule = scheduled(p, false, threads);
      std::set<std::pair<std::int64_t, std::int64_t>> owned;
      std::int64_t begin = 0, tasks = 0;
      ASSERT_EQ(schedule.owners.back(), static_cast<std::int64_t>(schedule.tasks.size()));
      for (const std::int64_t end : schedule.owners) {
        std::set<std::pair<std::int64_t, std::int64_t>> mine;
        for (; begin < end; ++begin, ++tasks) {
          const Task& t = schedule.tasks[static_cast<std::size_t>(begin)];
          EXPECT_TRUE(t.row_begin == 0 && t.row_end == kSize) << "split side by side";
          mine.insert({axes & 4 ? t.sequence : 0, axes & 2 ? t.kv_head : 0});
        }
        for (const auto& plane_of_head : mine)
          EXPECT_TRUE(owned.insert(plane_of_head).second) << "axes " << axes << ", " << threads << " threads";
      }
      EXPECT_EQ(owned.size(), (axes & 4 ? kBatches : 1) * (axes & 2 ? kHeads : 1));
      EXPECT_EQ(tasks, kBatches * kHeads);
    }
}

TEST(Schedule, HeavyTasksComeFirst) {
  const Problem p =
      dense_problem(Pass::forward, Dtype::bfloat16, 1, 4, 4, 20000, 20000, 64, 64, 1, {.hi = 0});
  const Schedule schedule = scheduled(p, false, 4);
  for (std::size_t i = 1; i < schedule.tasks.size(); ++i)
    EXPECT_LE(static_cast<double>(schedule.tasks[i].weight),
              1.26 * static_cast<double>(schedule.tasks[i - 1].weight));
}

TEST(Schedule, FewTilesTakeFewThreads) {
  EXPECT_EQ(useful_threads(dense_problem(Pass::forward, Dtype::float32, 1, 1, 1, 16, 16, 64, 64, 1, {}), 64),
            1);
  EXPECT_EQ(
      useful_threads(dense_problem(Pass::forward, Dtype::float32, 1, 8, 8, 512, 512, 64, 64, 1, {}), 64), 64);
  EXPECT_EQ(useful_threads(dense_problem(Pass::forward, Dtype::float32, 0, 0, 0, 0, 0, 64, 64, 1, {}), 64),
            1);
}

// Claimed scale: no list per tile, and cheap beside the work.
TEST(Schedule, StaysSmallForHugeProblems) {
  const auto start = std::chrono::steady_clock::now();
  for (const Pass pass : {Pass::forward, Pass::backward}) {
    const Problem lengthy =
        dense_problem(pass, Dtype::float16, 1, 1, 1, 20'971'520, 20'971'520, 16, 16, 1, {.lo = -64, .hi = 0});
    EXPECT_LT(scheduled(lengthy, false, 64).tasks.size(), 100'000u);
    const Problem many = dense_problem(pass, Dtype::float16, 65'536, 8, 8, 4, 4, 16, 16, 1, {.hi = 0});
    EXPECT_EQ(scheduled(many, false, 64).tasks.size(), 8 * 65'536u);
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  EXPECT_LT(seconds, 10);
  std::printf("note: four huge schedules in %.0f ms\n", seconds * 1e3);
}

}  // namespace
}  // namespace fusion_attention::plan
