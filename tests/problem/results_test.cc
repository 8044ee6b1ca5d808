// Rounded scores and int8 results: the line, every refusal of theirs, and numbers worked out by hand.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "fusion_attention/error.h"
#include "fusion_attention/run.h"
#include "support/random_problem.h"

namespace fusion_attention {
namespace {

TEST(ResultsText, ComesBackAsItWas) {
  const std::string sizes = "fwd fp16 b1 h4/2 q3 k5 d8/16 scale=1 band(-inf,inf)";
  for (const char* words : {" halves", " scaled(1)", " scaled(64,offset)", " sink halves scaled(1,offset)"})
    EXPECT_EQ(text(parse(sizes + words)), sizes + words);
  EXPECT_EQ(parse(sizes + " scaled(1)").output.dtype, Dtype::int8);
}

TEST(ResultsText, RefusesMalformedLines) {
  for (const char* line : {"fwd fp16 halves()", "fwd fp16 scaled", "fwd fp16 scaled()", "fwd fp16 scaled(2)",
                           "fwd fp16 scaled(1,offsets)", "fwd fp16 scaled(-1)", "fwd bf16 halves",
                           "bwd fp16 halves", "bwd fp16 scaled(1)"})
    EXPECT_THROW(parse(line), Error) << line;
}

TEST(ValidateResults, NamesTheArgument) {
  const Problem good = parse("fwd fp16 b1 h2 q3 k5 d8 scaled(16,offset)");
  ASSERT_NO_THROW(validate(good));
  const std::pair<const char*, std::function<void(Problem&)>> breaks[] = {
      {"output", [](Problem& p) { p.output.dtype = Dtype::float16; }},
      {"output", [](Problem& p) { p.output_scaling = {}; }},
      {"output_scaling.offset",
       [](Problem& p) { p.output_scaling.scale = nullptr, p.output.dtype = Dtype::float16; }},
      {"output_scaling.channels", [](Problem& p) { p.output_scaling.channels = 0; }},
      {"output_scaling.channels", [](Problem& p) { p.output_scaling.channels = 8; }},
  };
  for (const auto& [argument, apply] : breaks) {
    Problem p = good;
    apply(p);
    try {
      validate(p);
      ADD_FAILURE() << "accepted: " << argument;
    } catch (const Error& error) {
      EXPECT_EQ(error.argument(), argument) << error.what();
    }
  }
}

// Both scores are 2·300·300 = 180,000 and 120,000 before they are rounded: as halves both saturate.
TEST(HalfScores, Saturate) {
  for (const bool half_scores : {false, true}) {
    Problem p = dense_problem(Pass::forward, Dtype::float16, 1, 1, 1, 1, 2, 2, 1, 1e-4, {});
    p.half_scores = half_scores;
    testing::Case made(p, 1, testing::Fill::normal, testing::Layout::contiguous);
    for (int d = 0; d < 2; ++d) {
      testing::write(made.problem.query, 0, 0, 0, d, 300);
      testing::write(made.problem.key, 0, 0, 0, d, 300);
      testing::write(made.problem.key, 0, 0, 1, d, 200);
    }
    testing::write(made.problem.value, 0, 0, 0, 0, 1);
    testing::write(made.problem.value, 0, 0, 1, 0, 0);
    run(made.problem);
    const double weight = half_scores ? 0.5 : 1 / (1 + std::exp(-6.0));
    EXPECT_NEAR(testing::read(made.problem.output, 0, 0, 0, 0), weight, 1e-3);
    EXPECT_NEAR(made.problem.statistics.max[0], half_scores ? 6.5504 : 18.0, 1e-4);
  }
}

// A scale per channel: 2.5 to even, an offset added before rounding, both ends of int8; and a row that sees
// no key, which is 0 and not its offset.
TEST(OutputScaling, RoundsAndSaturates) {
  Problem p = dense_problem(Pass::forward, Dtype::bfloat16, 1, 1, 1, 2, 1, 1, 5, 1, {.lo = 0, .hi = 0});
  p.output.dtype = Dtype::int8;
  const float scale[] = {2.5f, 3.5f, 2.5f, 1e3f, -1e3f}, offset[] = {0, 0, 1.25f, 0, 0};
  p.output_scaling = {scale, offset, 5};
  testing::Case made(p, 1, testing::Fill::normal, testing::Layout::contiguous);
  made.problem.output_scaling = p.output_scaling;
  for (int c = 0; c < 5; ++c) testing::write(made.problem.value, 0, 0, 0, c, 1);
  run(made.problem);
  const double want[] = {2, 4, 4, 127, -128};
  for (int c = 0; c < 5; ++c) {
    EXPECT_EQ(testing::read(made.problem.output, 0, 0, 0, c), want[c]) << "channel " << c;
    EXPECT_EQ(testing::read(made.problem.output, 0, 0, 1, c), 0) << "channel " << c;
  }
}

}  // namespace
}  // namespace fusion_attention
