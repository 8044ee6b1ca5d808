// The division of work, without arithmetic: every visible pair in exactly one task, splits from the problem
// alone, balance.
#include "plan/schedule.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <queue>

#include "support/random_problem.h"

namespace fusion_attention::plan {
namespace {

constexpr kernels::Blocking kOrdinary{512, 512, 256, 16}, kTinyBlocking{32, 64, 64, 2},
    kBackward{256, 128, 128, 2};

Problem described(std::uint64_t seed, Pass pass) {
  return testing::random_case(seed, pass)->problem;
}

TEST(Schedule, CoversEveryPairOnce) {
  for (std::uint64_t seed = 0; seed < 200; ++seed)
    for (const Pass pass : {Pass::forward, Pass::backward}) {
      const Problem p = described(seed, pass);
      Schedule out;
      if (pass == Pass::forward) {
        schedule_forward(p, seed % 2 ? kOrdinary : kTinyBlocking, 1 + static_cast<int>(seed % 5), out);
      } else {
        schedule_backward(p, seed % 2 ? kBackward : kTinyBlocking, out);
      }
      std::map<std::pair<std::int64_t, std::int64_t>, std::int64_t> pairs;
      for (const Task& t : out.tasks) {
        const bool nothing = t.row_begin == t.row_end;  // a split whose rows others took: its share is zero
        EXPECT_TRUE(nothing || (t.row_begin % 32 == 0 && t.key_begin % 32 == 0)) << text(p);
        pairs[{t.sequence, t.kv_head}] += (t.row_end - t.row_begin) * (t.key_end - t.key_begin);
      }
      for (std::size_t s = 0; s < p.sequences.size(); ++s)
        for (std::int64_t head = 0; head < p.key.heads(); ++head)
          EXPECT_EQ((pairs[{static_cast<std::int64_t>(s), head}]), p.sequences[s].rows * p.sequences[s].keys)
              << text(p);
    }
}

// Splits change a sum, so neither threads nor the rest of the batch may change them.
TEST(Schedule, SplitsFollowFromTheSequenceAlone) {
  const Problem one = dense_problem(Pass::forward, Dtype::float32, 1, 4, 4, 1, 32768, 64, 64, 1, {});
  const Problem many = dense_problem(Pass::forward, Dtype::float32, 8, 16, 4, 1, 32768, 64, 64, 1, {});
  Schedule a, b;
  schedule_forward(one, kOrdinary, 1, a);
  schedule_forward(many, kOrdinary, 64, b);
  ASSERT_FALSE(a.merges.empty());
  for (const Merge& merge : b.merges) EXPECT_EQ(merge.splits, a.merges[0].splits);
}

// Tasks taken in order by whichever of `threads` is free: the longest against the mean.
double balance(const Problem& p, const Schedule& schedule, int threads) {
  std::priority_queue<double, std::vector<double>, std::greater<>> free;
  for (int i = 0; i < threads; ++i) free.push(0);
  double all = 0, last = 0;
  for (const Task& t : schedule.tasks) {
    const Sequence& s = p.sequences[static_cast<std::size_t>(t.sequence)];
    double work = 0;
    for (std::int64_t row = t.row_begin; row < t.row_end; ++row)
      work += static_cast<double>(visible_pairs(s, row, row + 1));
    const double end = free.top() + work;
    free.pop(), free.push(end);
    all += work, last = std::max(last, end);
  }
  return all / (last * threads);
}

TEST(Schedule, IsBalanced) {
  const Band causal{.hi = 0}, window{.lo = -1024, .hi = 0};
  for (const Band& band : {causal, window, Band{}})
    for (const int threads : {2, 16, 64}) {
      const Problem p = dense_problem(Pass::forward, Dtype::float32, 1, 32, 8, 8192, 8192, 128, 128, 1, band);
      Schedule out;
      schedule_forward(p, kOrdinary, threads, out);
      EXPECT_GE(balance(p, out, threads), 0.97) << text(p) << " on " << threads << " threads";
    }
}

// Claimed scale: no list per tile.
TEST(Schedule, StaysSmallForHugeProblems) {
  Schedule out;
  schedule_forward(dense_problem(Pass::forward, Dtype::float16, 1, 1, 1, 20'971'520, 20'971'520, 16, 16, 1,
                                 {.lo = -64, .hi = 0}),
                   kOrdinary, 2, out);
  EXPECT_LT(out.tasks.size(), 100'000u);
  schedule_forward(dense_problem(Pass::forward, Dtype::float16, 65'536, 1, 1, 4, 4, 16, 16, 1, {}), kOrdinary,
                   2, out);
  EXPECT_EQ(out.tasks.size(), 65'536u);
}

}  // namespace
}  // namespace fusion_attention::plan
