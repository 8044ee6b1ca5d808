// Bias, dropout and sink: the line, every refusal of theirs, and where their numbers lie by default.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "fusion_attention/error.h"
#include "fusion_attention/run.h"
#include "problem/planes.h"
#include "support/random.h"
#include "support/random_problem.h"

namespace fusion_attention {
namespace {

TEST(ScoresText, ComesBackAsItWas) {
  for (std::uint64_t i = 0; i < 300; ++i) {
    const std::uint64_t seed = i % 2 ? testing::seed() + i : i;
    testing::Draw draw(seed);
    Problem p = testing::random_problem(draw, i % 4 < 2 ? Pass::backward : Pass::forward);
    testing::with_scores(draw, p);
    const std::string line = text(p);
    const Problem back = parse(line);
    ASSERT_EQ(text(back), line) << "seed " << seed;
    EXPECT_EQ(back.bias.kind, p.bias.kind) << line;
    EXPECT_EQ(back.bias.dtype, p.bias.dtype) << line;
    EXPECT_EQ(back.bias.before_scale, p.bias.before_scale) << line;
    EXPECT_EQ(back.bias.last_rows, p.bias.last_rows) << line;
    EXPECT_EQ(back.dropout.keep_prob, p.dropout.keep_prob) << line;
    EXPECT_EQ(!back.dropout.bits, !p.dropout.bits) << line;
    if (p.dropout && !p.dropout.bits) {
      EXPECT_EQ(back.dropout.seed, p.dropout.seed) << line;
      EXPECT_EQ(back.dropout.offset, p.dropout.offset) << line;
    }
    EXPECT_EQ(!back.sink, !p.sink) << line;
    for (std::size_t s = 0; s < p.sequences.size() && p.bias.kind > BiasKind::dense; ++s)
      EXPECT_EQ(back.sequences[s].bias_shift, p.sequences[s].bias_shift) << line;
  }
}

TEST(ScoresText, SaysWhatItMeans) {
  const char* const dense = "fwd bf16 b2 h4/2 q5 k7 d8/8 scale=1 band(-inf,inf) ";
  const Problem p =
      parse(dense + std::string("bias(dense,bqk,fp32,before) dropout(keep=0.5,seed=5,offset=12) sink"));
  EXPECT_EQ(p.bias.elements, 2 * 5 * 7);
  EXPECT_EQ(p.sequences[1].bias, (Plane{35, 0, 7}));
  EXPECT_EQ(p.sequences[1].dropout, (Plane{4 * 35, 35, 7}));
  EXPECT_TRUE(p.bias.before_scale && p.sink);
  EXPECT_EQ(parse(dense + std::string("dropout(keep=1,bits)")).dropout.bytes, 35);
  const Problem slopes = parse(dense + std::string("bias(root_distance,n,shift=3:-4)"));
  EXPECT_EQ(slopes.bias.elements, 4);
  EXPECT_EQ(slopes.sequences[1].bias_shift, -4);
  EXPECT_EQ(parse(dense + std::string("bias(distance,bn,shift=3)")).sequences[1].bias_shift, 3);
  const Problem last = parse("fwd fp16 b1 h2 q8 k8 d8 band(-inf,0) bias(dense,nk,fp16,last=3)");
  EXPECT_EQ(last.sequences[0].bias, (Plane{0, 24, 8}));
  EXPECT_EQ(last.bias.elements, 48);
}

TEST(ScoresText, RefusesMalformedLines) {
  for (const char* word : {"bias",
                           "bias(",
                           "bias()",
                           "bias(none)",
                           "bias(dense)x",
                           "bias(dense,kn)",
                           "bias(dense,n)",
                           "bias(distance,nk)",
                           "bias(distance,n,before)",
                           "bias(distance,n,fp16)",
                           "bias(dense,k,fp16)",
                           "bias(dense,k,last=)",
                           "bias(dense,k,last=-1)",
                           "bias(dense,k",
                           "bias(dense,k,last=2)",
                           "bias(distance,n,shift=1:2:3)",
                           "bias(distance,shift=x)",
                           "bias(distance,shift=9999999999999)",
                           "dropout",
                           "dropout()",
                           "dropout(keep=)",
                           "dropout(keep=0)",
                           "dropout(keep=1.1)",
                           "dropout(keep=nan)",
                           "dropout(keep=0.5,seed=-1)",
                           "dropout(keep=0.5,offset=18446744073709551616)",
                           "dropout(keep=0.5",
                           "sinks",
                           "sink()"})
    EXPECT_THROW(parse(std::string("fwd bf16 b2 h2 q3 k4 ") + word), Error) << word;
}

struct Break {
  const char* argument;
  std::function<void(Problem&)> apply;
};

constexpr std::int64_t kHuge = std::numeric_limits<std::int64_t>::max();

// All kinds at once on five rows and keys; `last` as Bias::last_rows.
Problem described(BiasKind kind, std::int64_t last = 0) {
  Problem p = dense_problem(Pass::backward, Dtype::bfloat16, 2, 4, 2, 5, 5, 8, 8, 1, {.hi = 0});
  p.bias.kind = kind, p.bias.last_rows = last;
  natural_bias(p, {true, true, true}, Numbering::tensor);
  if (kind == BiasKind::dense) p.bias.gradient = testing::described_gradient();
  p.dropout = {.keep_prob = 0.5, .bits = testing::kDescribed};
  p.dropout.bytes = (natural_dropout(p, Numbering::tensor) + 7) / 8;
  p.sink = {reinterpret_cast<const float*>(testing::kDescribed), testing::described_gradient()};
  return p;
}

void expect_refused(const Problem& good, const Break& broken, void (*judge)(const Problem&)) {
  Problem p = good;
  ASSERT_NO_THROW(judge(p));
  broken.apply(p);
  try {
    judge(p);
    ADD_FAILURE() << "accepted: " << broken.argument;
  } catch (const Error& error) {
    EXPECT_EQ(error.argument(), broken.argument) << error.what();
  }
}

TEST(ValidateScores, NamesTheArgumentOfEveryBreak) {
  const auto nan = std::numeric_limits<double>::quiet_NaN();
  const Break breaks[] = {
      {"bias", [](Problem& p) { p.bias.dtype = Dtype::float16; }},
      {"bias.elements", [](Problem& p) { p.bias.elements = -1; }},
      {"bias.elements", [](Problem& p) { p.bias.elements = kHuge; }},
      {"bias", [](Problem& p) { p.bias.elements -= 1; }},
      {"bias", [](Problem& p) { p.sequences[1].bias.base += 1; }},
      {"bias", [](Problem& p) { p.sequences[1].bias.head += 1; }},
      {"bias", [](Problem& p) { p.sequences[1].bias.row += 1; }},
      {"bias", [](Problem& p) { p.sequences[0].bias.base = kHuge; }},
      {"bias", [](Problem& p) { p.sequences[0].bias.head = kHuge / 2; }},
      {"bias", [](Problem& p) { p.sequences[0].bias.base = -1; }},
      {"bias", [](Problem& p) { p.sequences[0].bias.head = -1; }},
      {"bias", [](Problem& p) { p.sequences[0].bias.row = -1; }},
      {"bias.last_rows", [](Problem& p) { p.bias.last_rows = -1; }},
      {"bias.last_rows", [](Problem& p) { p.bias.last_rows = kHuge; }},
      {"bias_shift", [](Problem& p) { p.sequences[1].bias_shift = kHuge; }},
      {"bias_shift", [](Problem& p) { p.sequences[1].bias_shift = -Band::kFar - 1; }},
      {"keep_prob", [](Problem& p) { p.dropout.keep_prob = 0; }},
      {"keep_prob", [](Problem& p) { p.dropout.keep_prob = 1.0001; }},
      {"keep_prob", [](Problem& p) { p.dropout.keep_prob = -0.5; }},
      {"keep_prob", [=](Problem& p) { p.dropout.keep_prob = nan; }},
      {"dropout.bits", [](Problem& p) { p.dropout.bytes -= 1; }},
      {"dropout.bits", [](Problem& p) { p.dropout.bytes = -1; }},
      {"dropout.bits", [](Problem& p) { p.sequences[1].dropout.base += 8; }},
      {"dropout", [](Problem& p) { p.sequences[0].dropout.row = -1; }},
      {"dropout", [](Problem& p) { p.sequences[0].dropout.base = kHuge; }},
      {"dropout", [](Problem& p) { p.dropout.bits = nullptr, p.sequences[0].dropout.row = kHuge / 3; }},
      {"sink.gradient", [](Problem& p) { p.sink.data = nullptr; }},
  };
  for (const Break& broken : breaks) expect_refused(described(BiasKind::dense), broken, validate);
}

TEST(ValidateScores, RefusesWhatSlopesHaveNot) {
  const Break breaks[] = {
      {"bias", [](Problem& p) { p.bias.dtype = Dtype::bfloat16; }},
      {"bias", [](Problem& p) { p.bias.elements -= 1; }},
      {"bias.before_scale", [](Problem& p) { p.bias.before_scale = true; }},
      {"bias.last_rows", [](Problem& p) { p.bias.last_rows = 2; }},
  };
  for (const Break& broken : breaks) expect_refused(described(BiasKind::distance), broken, validate);
}

TEST(ValidateScores, LastRowsNeedASquareUnderACausalBand) {
  const Break breaks[] = {
      {"bias.last_rows", [](Problem& p) { p.sequences[0].keys = 4; }},
      {"bias.last_rows", [](Problem& p) { p.sequences[1].band.hi = 1; }},
      {"bias.last_rows", [](Problem& p) { p.sequences[1].row0 = 1; }},
      {"bias.last_rows", [](Problem& p) { p.sequences[1].band.prefix = 2; }},
      {"bias", [](Problem& p) { p.bias.elements -= 1; }},
  };
  for (const Break& broken : breaks) expect_refused(described(BiasKind::dense, 3), broken, validate);
  Problem shard = described(BiasKind::dense, 3);
  shard.sequences[0].key0 = 1, shard.sequences[0].band = {.hi = 1, .prefix = 2};
  EXPECT_NO_THROW(validate(shard));
}

// A rectangle that reads nothing has no indices, wherever its plane begins.
TEST(ValidateScores, TakesAnEmptySequenceAnywhere) {
  Problem p = described(BiasKind::dense);
  p.sequences[1].keys = 0;
  p.sequences[1].bias.base = p.sequences[1].dropout.base = std::int64_t{1} << 50;
  EXPECT_NO_THROW(validate(p));
}

TEST(ValidateScores, RefusesMemoryThatIsMissingMisalignedOrShared) {
  const Break breaks[] = {
      {"bias", [](Problem& p) { p.bias.data = nullptr; }},
      {"bias", [](Problem& p) { p.bias.data = static_cast<const std::byte*>(p.bias.data) + 1; }},
      {"sink",
       [](Problem& p) {
         p.sink.data = reinterpret_cast<float*>(reinterpret_cast<char*>(p.sink.gradient) + 2);
       }},
      {"bias.gradient", [](Problem& p) { p.bias.gradient = static_cast<float*>(p.query_gradient.data); }},
      {"bias.gradient", [](Problem& p) { p.bias.data = p.bias.gradient + p.bias.elements - 1; }},
      {"sink.gradient", [](Problem& p) { p.sink.gradient = const_cast<float*>(p.sink.data) + 3; }},
      {"sink.gradient", [](Problem& p) { p.sink.gradient = p.bias.gradient + 7; }},
      {"query_gradient",
       [](Problem& p) { p.dropout.bits = static_cast<const std::uint8_t*>(p.query_gradient.data); }},
  };
  for (const Break& broken : breaks) {
    const testing::Case made(described(BiasKind::dense), 1, testing::Fill::normal,
                             testing::Layout::contiguous);
    expect_refused(made.problem, broken, run_reference);
  }
}

// 2 sequences of 3 × 4 and 2 × 5 in one pack, two heads.
Problem packed() {
  Problem p = dense_problem(Pass::forward, Dtype::float32, 1, 2, 1, 5, 9, 8, 8, 1, {});
  p.sequences = {{.row = 0, .rows = 3, .key = 0, .keys = 4, .band = {}},
                 {.row = 3, .rows = 2, .key = 4, .keys = 5, .band = {}}};
  return p;
}

TEST(Planes, OfPackedSequencesLieOneBehindTheOther) {
  Problem p = packed();
  ASSERT_EQ(numbering_of(p), Numbering::sequences);
  EXPECT_EQ(natural_dropout(p, Numbering::sequences), 2 * (12 + 10));
  EXPECT_EQ(p.sequences[1].dropout, (Plane{24, 10, 5}));
  p.bias.kind = BiasKind::dense;
  natural_bias(p, {true, true, false}, Numbering::sequences);  // [N, 1, keys]
  EXPECT_EQ(p.sequences[1].bias, (Plane{8, 5, 0}));
  EXPECT_EQ(p.bias.elements, 18);
  natural_bias(p, {false, true, true}, Numbering::sequences);  // [N, 3, 5] for all
  EXPECT_EQ(p.sequences[1].bias, (Plane{0, 15, 5}));
  EXPECT_EQ(p.bias.elements, 30);
  p.bias.last_rows = 2;
  natural_bias(p, {true, true, true}, Numbering::sequences);  // [2, N, 2, 5]
  EXPECT_EQ(p.sequences[0].bias, (Plane{0, 10, 5}));
  EXPECT_EQ(p.sequences[1].bias, (Plane{20, 10, 5}));
  EXPECT_EQ(p.bias.elements, 40);
  p.bias = {.kind = BiasKind::distance};
  natural_bias(p, {true, true}, Numbering::sequences);
  EXPECT_EQ(p.sequences[1].bias, (Plane{2, 1, 0}));
  EXPECT_EQ(p.bias.elements, 4);
}

TEST(Planes, OfTensorsCountFromTheirFirstRowAndKey) {
  Problem p = packed();
  EXPECT_EQ(natural_dropout(p, Numbering::tensor), 2 * 5 * 9);
  EXPECT_EQ(p.sequences[1].dropout, (Plane{3 * 9 + 4, 45, 9}));
}

TEST(Planes, RefuseMoreScoresThanAnIndexCounts) {
  Problem p = packed();
  p.query.shape[2] = p.key.shape[2] = std::int64_t{1} << 32;
  EXPECT_THROW(natural_dropout(p, Numbering::tensor), Error);
}

}  // namespace
}  // namespace fusion_attention
