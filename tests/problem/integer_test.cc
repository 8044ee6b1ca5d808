// int8 operands as a line of text, and what they are refused with.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "fusion_attention/fusion_attention.h"

namespace fusion_attention {
namespace {

Problem small() {
  return parse("fwd int8 b1 h4/2 q7 k9 d40/24 scale=0.5 integer(0.001,127,0.0002)");
}

TEST(IntegerProblem, IsALineOfText) {
  for (const char* line : {"fwd int8 b1 h4/2 q7 k9 d40/24 scale=0.5 band(-inf,0) integer(0.001,127,2e-04)",
                           "fwd int8 b2 h4/4 q7 k9 d40/40 scale=1 band(-inf,inf) bias(dense,nqk,fp16) "
                           "integer(1e-06,-3,0) scaled(160,offset)"})
    EXPECT_EQ(text(parse(line)), line);
  const Problem p = small();
  EXPECT_EQ(p.output.dtype, Dtype::float16);
  EXPECT_EQ(p.integer.score_scale, 0.001f);
  EXPECT_EQ(parse("fwd int8 b1 h4/2 q7 k9 d40/24 scaled(1)").output.dtype, Dtype::int8);
  EXPECT_THROW(parse("fwd int8 b1 h4/2 q7 k9 d40/24 integer(1,2)"), Error);
  EXPECT_THROW(parse("bwd int8 b1 h4/2 q7 k9 d40/24"), Error);
}

TEST(IntegerProblem, RefusesByName) {
  validate(small());
  const struct {
    const char* argument;
    std::function<void(Problem&)> spoil;
  } cases[] = {
      {"query", [](Problem& p) { p.query.shape[3] = p.key.shape[3] = 131072; }},
      {"output", [](Problem& p) { p.output.dtype = Dtype::int8; }},
      {"output", [](Problem& p) { p.output.dtype = Dtype::bfloat16; }},
      {"key", [](Problem& p) { p.key.dtype = Dtype::float16; }},
      {"integer.score_scale", [](Problem& p) { p.integer.score_scale = INFINITY; }},
      {"integer.weight_scale", [](Problem& p) { p.integer.weight_scale = NAN; }},
      {"integer.value_scale", [](Problem& p) { p.integer.value_scale = -INFINITY; }},
      {"half_scores", [](Problem& p) { p.half_scores = true; }},
      {"cache", [](Problem& p) { p.cache.pages.table = reinterpret_cast<const std::int32_t*>(&p); }},
      {"query", [](Problem& p) { p.query.dtype = Dtype::int4; }},
      {"dropout", [](Problem& p) { p.dropout.keep_prob = 0.5; }},
      {"sink", [](Problem& p) { p.sink.data = &p.integer.score_scale; }},
      {"bias",
       [](Problem& p) {
         p.bias.kind = BiasKind::distance;
         p.bias.data = &p;
       }},
      {"bias",
       [](Problem& p) {
         p.bias = {.kind = BiasKind::dense, .data = &p, .dtype = Dtype::float32, .elements = 63};
       }},
      {"bias",
       [](Problem& p) {
         p.bias = {.kind = BiasKind::dense,
                   .data = &p,
                   .dtype = Dtype::float16,
                   .elements = 63,
                   .before_scale = true};
       }},
  };
  for (const auto& [argument, spoil] : cases) {
    Problem p = small();
    spoil(p);
    try {
      validate(p);
      ADD_FAILURE() << argument << " was taken";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(argument), std::string::npos) << error.what();
    }
  }
}

}  // namespace
}  // namespace fusion_attention
