// Numbers at the edges of the format, on every kernel row that runs here and both blockings: what random
// problems found once, and what they would meet too seldom.
#include <gtest/gtest.h>

#include "support/bound.h"
#include "support/every_blocking.h"
#include "support/random_problem.h"

namespace fusion_attention::testing {
namespace {

class HardNumbers : public EveryBlocking {
 protected:
  void expect_within_the_bound(Case& made) {
    made.poison_outputs();
    run(made.problem);
    const Verdict verdict = judge(made.problem, route_of(arch(), made.problem.query.dtype));
    EXPECT_EQ(verdict.failures, 0) << verdict.first << "\n  " << text(made.problem);
  }
};

// From 2^32 on, half an ulp of a score is more than exp2 can take.
TEST_P(HardNumbers, HugeScoresStayFinite) {
  for (const Dtype dtype : {Dtype::float32, Dtype::float16, Dtype::bfloat16})
    for (const std::int64_t rows : {2, 40})
      for (std::uint64_t seed = 0; seed < 8; ++seed) {
        Case made(dense_problem(Pass::forward, dtype, 1, 2, 1, rows, 300, 24, 8, 1, {}), seed, Fill::extreme,
                  Layout::contiguous);
        expect_within_the_bound(made);
      }
}

// Its statistics say so, whichever split of the keys it was in, and so the gradients of the keys it sees are
// NaN and those of the others are not.
TEST_P(HardNumbers, ANanRowIsNotAnEmptyOne) {
  for (const std::int64_t rows : {2, 40}) {
    Case made(dense_problem(Pass::backward, Dtype::float32, 1, 2, 1, rows, 300, 8, 8, 1, {.hi = 100}), 1,
              Fill::normal, Layout::contiguous);
    Problem& p = made.problem;
    write(p.query, 0, 1, 1, 3, NAN);
    Problem forward = p;
    forward.pass = Pass::forward;
    run(forward);
    const std::int64_t entry = (rows + 1) * p.statistics.copies;
    EXPECT_TRUE(std::isnan(p.statistics.max[entry]) && std::isnan(p.statistics.sum[entry])) << text(forward);
    expect_within_the_bound(made);
    EXPECT_TRUE(std::isnan(read(p.value_gradient, 0, 0, 101, 0)));
    if (rows == 2) {
      EXPECT_EQ(read(p.value_gradient, 0, 0, 102, 0), 0);
    }
  }
}

// A row whose every visible score is −∞ is as empty as one that sees nothing.
TEST_P(HardNumbers, ScoresOfMinusInfinityAreAnEmptyRow) {
  if (!has_infinities(arch())) GTEST_SKIP() << "a split operand makes a visible infinity NaN";
  for (const Pass pass : {Pass::forward, Pass::backward})
    for (const std::int64_t rows : {2, 40}) {
      Case made(dense_problem(pass, Dtype::float32, 1, 2, 1, rows, 300, 1, 8, 1, {}), 1, Fill::constant,
                Layout::contiguous);
      Problem& p = made.problem;
      for (std::int64_t j = 0; j < 300; ++j) write(p.key, 0, 0, j, 0, -INFINITY);
      if (pass == Pass::backward) made.forward_first(1);
      expect_within_the_bound(made);
      EXPECT_EQ(p.statistics.max[0], -FLT_MAX);
      EXPECT_EQ(read(pass == Pass::forward ? p.output : p.value_gradient, 0, 0, 0, 0), 0);
    }
}

INSTANTIATE_TEST_SUITE_P(EveryArch, HardNumbers, every_blocking(), name_of_blocking);

}  // namespace
}  // namespace fusion_attention::testing
