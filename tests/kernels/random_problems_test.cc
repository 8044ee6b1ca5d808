// Random problems on every kernel row that this machine can execute, against fp64 with the derived bound.
// Half of them run on the tiny row of the machine table, so that small problems meet every block boundary;
// all operands end at a guard page.
//
// FUSION_ATTENTION_RANDOM_PROBLEMS sets the number per arch and pass. A failure prints the problem's line and
// its seed, to be pasted behind `replay`.
#include <gtest/gtest.h>

#include <cstdlib>

#include "support/bound.h"
#include "support/cached.h"
#include "support/every_arch.h"
#include "support/outputs.h"
#include "support/random.h"
#include "support/random_problem.h"

namespace fusion_attention::testing {
namespace {

int count() {
  const char* text = std::getenv("FUSION_ATTENTION_RANDOM_PROBLEMS");
  return text ? std::atoi(text) : 120;
}

class RandomProblems : public ::testing::TestWithParam<std::tuple<std::string, Pass>> {
 protected:
  void TearDown() override {
    unsetenv("FUSION_ATTENTION_KERNEL");
    unsetenv("FUSION_ATTENTION_MACHINE");
  }
};

TEST_P(RandomProblems, StayWithinTheBound) {
  const auto& [name, pass] = GetParam();
  const std::string how = force(name);
  if (how == kNotAtAll) GTEST_SKIP() << name << " does not execute on this CPU";
  double worst = 0;
  for (int i = 0; i < count(); ++i) {
    // Half of the seeds are the same in every run.
    const std::uint64_t seed =
        i % 2 ? testing::seed() + static_cast<std::uint64_t>(i) : static_cast<std::uint64_t>(i);
    i / 2 % 2 ? setenv("FUSION_ATTENTION_MACHINE", "tiny", 1) : unsetenv("FUSION_ATTENTION_MACHINE");
    const Scores scores = i / 4 % 2 ? Scores::joined : Scores::plain;
    const auto made = random_case(seed, pass, has_infinities(name), scores);
    run(made->problem);
    const Verdict verdict = judge(made->problem, route_of(name, made->problem.query.dtype));
    worst = std::fmax(worst, verdict.worst);
    ASSERT_EQ(made->trespassed(), 0) << "bytes written outside the outputs\n  " << text(made->problem)
                                     << "\n  seed " << seed << ", " << name;
    ASSERT_EQ(verdict.failures, 0) << verdict.first << "\n  " << text(made->problem) << "\n  seed " << seed
                                   << ", " << (i / 2 % 2 ? "tiny" : "ordinary") << " blocking, " << name;
  }
  std::printf("note: %s %s: %d random problems %s, worst error / bound %.2f\n", name.c_str(),
              pass == Pass::forward ? "forward" : "backward", count(), how.c_str(), worst);
}

class RandomCaches : public ::testing::TestWithParam<std::string> {
 protected:
  void TearDown() override {
    unsetenv("FUSION_ATTENTION_KERNEL");
    unsetenv("FUSION_ATTENTION_MACHINE");
  }
};

// Stored keys are the call on plain tensors of their rows, bit for bit, and that call is within its bound.
TEST_P(RandomCaches, AreThePlainTensorsOfTheirRows) {
  const std::string how = force(GetParam());
  if (how == kNotAtAll) GTEST_SKIP() << GetParam() << " does not execute on this CPU";
  for (int i = 0; i < count(); ++i) {
    const std::uint64_t seed =
        i % 2 ? testing::seed() + static_cast<std::uint64_t>(i) : static_cast<std::uint64_t>(i);
    i / 2 % 2 ? setenv("FUSION_ATTENTION_MACHINE", "tiny", 1) : unsetenv("FUSION_ATTENTION_MACHINE");
    const Scores scores = i / 4 % 2 ? Scores::joined : Scores::plain;
    const RandomCached random(seed, has_infinities(GetParam()), scores);
    const Problem &cached = random.cached.problem, &twin = random.cached.twin;
    const std::string which = "\n  " + text(cached) + "\n  seed " + std::to_string(seed) + ", " +
                              (i / 2 % 2 ? "tiny" : "ordinary") + " blocking, " + GetParam();
    run(cached);
    ASSERT_EQ(random.made->trespassed(), 0) << "bytes written outside the outputs" << which;
    const auto bits = output_bits(cached);
    random.made->poison_outputs();
    run(twin);
    ASSERT_EQ(output_bits(twin), bits) << which << "\n  twin: " << text(twin);
    const Verdict verdict = judge(twin, route_of(GetParam(), twin.query.dtype));
    ASSERT_EQ(verdict.failures, 0) << verdict.first << which;
  }
}

INSTANTIATE_TEST_SUITE_P(EveryArch, RandomCaches, ::testing::ValuesIn(arches()),
                         [](const auto& info) { return info.param; });

INSTANTIATE_TEST_SUITE_P(EveryArch, RandomProblems,
                         ::testing::Combine(::testing::ValuesIn(arches()),
                                            ::testing::Values(Pass::forward, Pass::backward)),
                         [](const auto& info) {
                           return std::get<0>(info.param) +
                                  (std::get<1>(info.param) == Pass::forward ? "_forward" : "_backward");
                         });

}  // namespace
}  // namespace fusion_attention::testing
