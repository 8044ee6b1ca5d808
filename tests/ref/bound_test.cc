// The judge of the kernels on the reference: two statements of the same formulas agree within the bound.
#include <gtest/gtest.h>

#include "support/bound.h"
#include "support/random.h"
#include "support/random_problem.h"

namespace fusion_attention::testing {
namespace {

class ReferenceBound : public ::testing::TestWithParam<std::tuple<Pass, Scores>> {};

TEST_P(ReferenceBound, Holds) {
  const auto& [pass, scores] = GetParam();
  for (std::uint64_t i = 0; i < 120; ++i) {
    const std::uint64_t at = i % 2 ? seed() + i : i;  // half of the seeds are the same in every run
    const auto made = random_case(at, pass, /*infinities=*/true, scores);
    run_reference(made->problem);
    ASSERT_EQ(made->trespassed(), 0) << text(made->problem) << "\n  seed " << at;
    const Verdict verdict = judge(made->problem, Route{1, 0, 0});
    ASSERT_EQ(verdict.failures, 0) << verdict.first << "\n  " << text(made->problem) << "\n  seed " << at;
  }
}

INSTANTIATE_TEST_SUITE_P(BothPasses, ReferenceBound,
                         ::testing::Combine(::testing::Values(Pass::forward, Pass::backward),
                                            ::testing::Values(Scores::plain, Scores::joined)));

}  // namespace
}  // namespace fusion_attention::testing
