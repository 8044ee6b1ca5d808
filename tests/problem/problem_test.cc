// The line of a problem, and every refusal of validate().
#include "fusion_attention/problem.h"

#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "fusion_attention/error.h"
#include "fusion_attention/run.h"
#include "support/random_problem.h"

namespace fusion_attention {
namespace {

TEST(Text, ComesBackAsItWas) {
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    const Problem p = testing::random_case(seed, seed % 2 ? Pass::backward : Pass::forward)->problem;
    const std::string line = text(p);
    const Problem back = parse(line);
    EXPECT_EQ(text(back), line);
    EXPECT_EQ(back.query.shape, p.query.shape);
    EXPECT_EQ(back.sequences.size(), p.sequences.size());
    for (std::size_t i = 0; i < p.sequences.size(); ++i)
      EXPECT_EQ(back.sequences[i].band, p.sequences[i].band);
  }
}

TEST(Text, RefusesMalformedLines) {
  for (const char* line :
       {"", "fwd", "fwd bf16 b", "fwd bf16 bx", "fwd bf17 b1", "fwd bf16 q-1",
        "fwd bf16 scale=", "fwd bf16 band(1)", "fwd bf16 band(1,2", "fwd bf16 seqs(1:2",
        "fwd bf16 overlay(kb)", "fwd bf16 b99999999999999999999", "fwd bf16 h3/2", "fwd bf16 d0",
        "fwd bf16 seqs(0:0:5:0:1:0:0:-inf:inf)", "fwd bf16 band(inf,-inf,3)", "nonsense"})
    EXPECT_THROW(parse(line), Error) << line;
}

struct Break {
  const char* argument;
  std::function<void(Problem&)> apply;
};

TEST(Validate, NamesTheArgumentOfEveryBreak) {
  constexpr std::int64_t kHuge = std::numeric_limits<std::int64_t>::max();
  const Break breaks[] = {
      {"query", [](Problem& p) { p.query.shape[3] = 0; }},
      {"query", [](Problem& p) { p.query.shape[2] = -1; }},
      {"query", [](Problem& p) { p.query.stride[1] = -8; }},
      {"query", [](Problem& p) { p.query.shape[2] = kHuge; }},
      {"query", [](Problem& p) { p.query.stride[0] = kHuge; }},
      {"key", [](Problem& p) { p.key.shape[3] += 1; }},
      {"key", [](Problem& p) { p.key.shape[1] = 3; }},
      {"key", [](Problem& p) { p.key.shape[1] = 0; }},
      {"key", [](Problem& p) { p.key.dtype = Dtype::float16; }},
      {"value", [](Problem& p) { p.value.shape[2] += 1; }},
      {"value", [](Problem& p) { p.value.dtype = Dtype::bfloat16; }},
      {"value", [](Problem& p) { p.value.shape[3] = 0; }},
      {"output", [](Problem& p) { p.output.shape[0] = 1; }},
      {"scale", [](Problem& p) { p.scale = std::numeric_limits<double>::quiet_NaN(); }},
      {"scale", [](Problem& p) { p.scale = std::numeric_limits<double>::infinity(); }},
      {"sequences", [](Problem& p) { p.sequences[0].rows += 1; }},
      {"sequences", [](Problem& p) { p.sequences[0].keys = kHuge; }},
      {"sequences", [](Problem& p) { p.sequences[0].key = -1; }},
      {"sequences", [](Problem& p) { p.sequences[0].batch = 2; }},
      {"sequences", [](Problem& p) { p.sequences[1].batch = 0; }},
      {"sequences", [](Problem& p) { p.sequences[0].row0 = -1; }},
      {"band.block", [](Problem& p) { p.sequences[0].band.block = 0; }},
      {"band.prefix", [](Problem& p) { p.sequences[0].band.prefix = -1; }},
      {"band.prefix", [](Problem& p) { p.sequences[0].band.lo = 0, p.sequences[0].band.prefix = 2; }},
      {"band", [](Problem& p) { p.sequences[0].band.hi = kHuge; }},
      {"overlay", [](Problem& p) { p.overlay.stride[2] = -1; }},
      {"statistics", [](Problem& p) { p.statistics.copies = 0; }},
      {"statistics", [](Problem& p) { p.statistics.sum = nullptr; }},
      {"output_gradient", [](Problem& p) { p.output_gradient.shape[2] += 1; }},
      {"key_gradient", [](Problem& p) { p.key_gradient.dtype = Dtype::float16; }},
  };
  for (const Break& broken : breaks) {
    const auto made = std::make_unique<testing::Case>(
        dense_problem(Pass::backward, Dtype::float32, 2, 4, 2, 5, 7, 8, 8, 1, {}), 1, testing::Fill::normal,
        testing::Layout::contiguous);
    Problem p = made->problem;
    ASSERT_NO_THROW(validate(p));
    broken.apply(p);
    try {
      run(p);
      ADD_FAILURE() << "accepted: " << broken.argument;
    } catch (const Error& error) {
      EXPECT_EQ(error.argument().rfind(broken.argument, 0), 0u) << error.what();
    }
  }
}

TEST(Validate, RefusesSharedAndMissingMemory) {
  const auto make = [] {
    return std::make_unique<testing::Case>(
        dense_problem(Pass::forward, Dtype::float32, 1, 2, 2, 5, 5, 8, 8, 1, {}), 1, testing::Fill::normal,
        testing::Layout::contiguous);
  };
  const auto refused = [](const Problem& p) { EXPECT_THROW(run(p), Error); };
  auto a = make(), b = make(), c = make(), d = make();
  a->problem.output.data = a->problem.query.data;
  b->problem.key.data = nullptr;
  c->problem.output.stride[2] = 0;
  d->problem.query.data = static_cast<std::byte*>(d->problem.query.data) + 1;
  for (const auto* broken : {&a, &b, &c, &d}) refused((*broken)->problem);
}

// Every combination of empty axes computes nothing and crashes nothing.
TEST(Run, TakesEveryEmptyShape) {
  for (int bits = 0; bits < 32; ++bits)
    for (const Pass pass : {Pass::forward, Pass::backward}) {
      const auto size = [&](int bit, std::int64_t n) { return bits >> bit & 1 ? 0 : n; };
      const std::int64_t heads = size(1, 2);
      testing::Case made(
          dense_problem(pass, Dtype::bfloat16, size(0, 2), heads, heads, size(2, 5), size(3, 7), 8, 4, 1, {}),
          1, testing::Fill::normal, testing::Layout::contiguous);
      if (bits >> 4 & 1) made.problem.sequences.clear();
      ASSERT_NO_THROW(run(made.problem)) << bits;
    }
}

}  // namespace
}  // namespace fusion_attention
