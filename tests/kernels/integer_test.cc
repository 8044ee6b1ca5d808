// int8 operands: every arch gives the reference's bits, and the reference gives what the definition says.
//
// FUSION_ATTENTION_RANDOM_PROBLEMS sets the number of random problems, half of them on the tiny blocking.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>

#include "support/every_arch.h"
#include "support/outputs.h"
#include "support/random.h"
#include "support/random_integer.h"

namespace fusion_attention::testing {
namespace {

int count() {
  const char* text = std::getenv("FUSION_ATTENTION_RANDOM_PROBLEMS");
  return text ? std::atoi(text) : 200;
}

std::vector<std::byte> reference_bits(Case& made) {
  run_reference(made.problem);
  auto bits = output_bits(made.problem);
  made.poison_outputs();
  return bits;
}

class IntegerKernels : public ::testing::Test {
 protected:
  void TearDown() override {
    unsetenv("FUSION_ATTENTION_KERNEL");
    unsetenv("FUSION_ATTENTION_MACHINE");
    set_thread_count(0);
  }
  void expect_everywhere(Case& made, const std::string& what) {
    const auto want = reference_bits(made);
    for (const std::string& arch : arches()) {
      if (force(arch) == kNotAtAll) continue;
      made.poison_outputs();
      run(made.problem);
      ASSERT_EQ(made.trespassed(), 0) << arch << ", bytes written outside the outputs\n  " << what;
      ASSERT_EQ(output_bits(made.problem), want) << arch << "\n  " << text(made.problem) << "\n  " << what;
    }
  }
};

TEST_F(IntegerKernels, EqualTheReferenceBitForBit) {
  for (int i = 0; i < count(); ++i) {
    // Half of the seeds are the same in every run.
    const std::uint64_t seed =
        i % 2 ? testing::seed() + static_cast<std::uint64_t>(i) : static_cast<std::uint64_t>(i);
    i / 2 % 2 ? setenv("FUSION_ATTENTION_MACHINE", "tiny", 1) : unsetenv("FUSION_ATTENTION_MACHINE");
    const auto made = integer_case(seed);
    expect_everywhere(*made, "seed " + std::to_string(seed) + (i / 2 % 2 ? ", tiny" : ""));
    if (HasFatalFailure()) return;
  }
}

// Sums at the end of what halves and int8 hold, over more than a tile of keys.
TEST_F(IntegerKernels, TakeExtremes) {
  Draw draw(1);
  const Integers fills[] = {Integers::least, Integers::most, Integers::ends};
  for (const Integers query : fills)
    for (const Integers key : fills)
      for (const float score_scale : {1e-7f, 1.0f, 0.0f, -1e20f})
        for (const float weight_scale : {127.0f, 1e6f, -200.0f}) {
          const Integers value = fills[draw.between(0, 2)];
          Problem p = dense_problem(Pass::forward, Dtype::int8, 1, 1, 1, 2, 1060, 130, 17, 1, {.hi = 1058});
          p.integer = {score_scale, weight_scale, weight_scale > 200 ? 1.0f : 1e-4f};
          Case made(p, 1, Fill::normal, Layout::contiguous);
          fill_integers(made.problem.query, query, draw);
          fill_integers(made.problem.key, key, draw);
          fill_integers(made.problem.value, value, draw);
          expect_everywhere(made, "extremes");
          if (HasFatalFailure()) return;
        }
}

TEST_F(IntegerKernels, DoNotDependOnThreads) {
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    const auto made = integer_case(seed);
    set_thread_count(1);
    run(made->problem);
    const auto alone = output_bits(made->problem);
    for (const int threads : {2, 3, 8}) {
      made->poison_outputs();
      set_thread_count(threads);
      run(made->problem);
      ASSERT_EQ(output_bits(made->problem), alone)
          << threads << " threads\n  " << text(made->problem) << "\n  seed " << seed;
    }
  }
}

// Rows [0, 32) of one head alone, as a problem of its own views.
TEST_F(IntegerKernels, GiveASliceTheBitsOfTheWhole) {
  Draw draw(testing::seed());
  Problem p = dense_problem(Pass::forward, Dtype::int8, 2, 4, 2, 70, 1300, 40, 24, 0.1, {});
  p.integer = {1e-3f, 127, 1e-4f};
  Case made(p, 3, Fill::normal, Layout::spread);
  for (const TensorView* v : {&made.problem.query, &made.problem.key, &made.problem.value})
    fill_integers(*v, Integers::any, draw);
  run(made.problem);
  const auto part = [](Problem one) {
    one.query.data = element(one.query, 1, 2, 0, 0), one.output.data = element(one.output, 1, 2, 0, 0);
    one.key.data = element(one.key, 1, 1, 0, 0), one.value.data = element(one.value, 1, 1, 0, 0);
    for (TensorView* v : {&one.query, &one.key, &one.value, &one.output}) v->shape[0] = v->shape[1] = 1;
    one.query.shape[2] = one.output.shape[2] = 32;
    one.sequences = {{.batch = 0, .row = 0, .rows = 32, .key = 0, .keys = 1300, .band = {}}};
    one.statistics = {};
    return one;
  }(made.problem);
  const auto together = output_bits(part);
  made.poison_outputs();
  run(part);
  EXPECT_EQ(output_bits(part), together) << testing::seed_line();
}

// One row, one channel: numbers that a person can follow.
struct ByHand {
  explicit ByHand(std::vector<std::int8_t> k, std::vector<std::int8_t> v)
      : key(std::move(k)),
        value(std::move(v)),
        problem(dense_problem(Pass::forward, Dtype::int8, 1, 1, 1, 1, static_cast<std::int64_t>(key.size()),
                              1, 1, 1, {})) {
    problem.query.data = query, problem.key.data = key.data(), problem.value.data = value.data();
    problem.output.data = &output;
    problem.integer.weight_scale = 127;
    problem.integer.value_scale = 1.0f / 127;
  }
  float reference() {
    run_reference(problem);
    return to_float(output);
  }
  std::int8_t query[1] = {1};
  std::vector<std::int8_t> key, value;
  f16 output{};
  Problem problem;
};

TEST(IntegerReference, FollowsTheDefinition) {
  // Equal scores: weights 127 and 127, O = half(127·30/127) = 30, l = 2.
  EXPECT_EQ(ByHand({0, 0}, {10, 20}).reference(), 15.0f);
  // exp(−1) = half 0.36792; times 127 is 46.72, rounded to 47. O = half((127·0 + 47·100)/127) = 37.
  const float e = to_float(from_float<f16>(std::exp(-1.0f)));
  const float share = to_float(from_float<f16>(4700.0f * (1.0f / 127))),
              sum = to_float(from_float<f16>(1 + e));
  EXPECT_EQ(ByHand({1, 0}, {0, 100}).reference(), to_float(from_float<f16>(share / sum)));
}

// The weights of a tile are relative to the maximum so far: what an early tile has lost below half a weight
// does not come back, and what it has is scaled when a later tile raises the maximum.
TEST(IntegerReference, QuantisesRelativeToTheRunningMaximum) {
  std::vector<std::int8_t> key(1025, 0), value(1025, 0);
  value[0] = 100;
  key[1024] = 6;  // exp(−6)·127 = 0.31 rounds to 0 in one tile, but the first tile is relative to 0
  EXPECT_GT(ByHand(key, value).reference(), 0.03f);
  key[1023] = 6;
  EXPECT_EQ(ByHand(key, value).reference(), 0.0f);
}

TEST(IntegerReference, SaturatesScoresAndKeepsRowsThatSeeNothing) {
  ByHand case_({127, -127}, {3, 100});
  case_.problem.integer.score_scale = 1e30f;
  EXPECT_EQ(case_.reference(), 3.0f);  // 65504 and −65504
  case_.problem.sequences[0].band = {.hi = -1};
  EXPECT_EQ(case_.reference(), 0.0f);
}

}  // namespace
}  // namespace fusion_attention::testing
