// Caches: their words in a line, every refusal, and tables that somebody else has written.
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

#include "fusion_attention/error.h"
#include "fusion_attention/run.h"
#include "support/cached.h"
#include "support/outputs.h"

namespace fusion_attention {
namespace {

constexpr std::int64_t kHuge = std::numeric_limits<std::int64_t>::max(),
                       kLeast = std::numeric_limits<std::int64_t>::min();

TEST(CacheText, ComesBackAsItWas) {
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    const testing::RandomCached random(seed);
    const Problem& p = random.cached.problem;
    const std::string line = text(p);
    const Problem back = parse(line);
    EXPECT_EQ(text(back), line);
    EXPECT_EQ(back.key.dtype, p.key.dtype);
    EXPECT_EQ(back.value.dtype, p.value.dtype);
    EXPECT_EQ(back.cache.key_rope.channels(), p.cache.key_rope.channels());
    EXPECT_EQ(!back.cache.pages, !p.cache.pages);
    for (std::size_t i = 0; i < p.sequences.size(); ++i) {
      EXPECT_EQ(back.sequences[i].keys, p.sequences[i].keys) << line;
      EXPECT_EQ(back.sequences[i].prefix, p.sequences[i].prefix) << line;
    }
  }
}

TEST(CacheText, MakesNaturalPages) {
  const Problem p = parse(
      "fwd bf16 b3 h8/2 q1 k40 d64/32 pages(16) prefix(8) rope(24) key(int8,nd) value(int4,n,fp16,offset)");
  EXPECT_EQ(p.key.shape, (std::array<std::int64_t, 4>{9, 2, 16, 40}));
  EXPECT_EQ(p.value.shape, (std::array<std::int64_t, 4>{9, 2, 16, 32}));
  EXPECT_EQ(p.cache.prefix_key.shape, (std::array<std::int64_t, 4>{1, 2, 8, 40}));
  EXPECT_EQ(p.cache.key.scale.stride, (std::array<std::int64_t, 4>{0, 40, 0, 1}));
  EXPECT_EQ(p.cache.pages.entries, 9);
  EXPECT_EQ(p.sequences[2].page, 6);
  EXPECT_EQ(p.sequences[2].keys, 48);
}

TEST(CacheText, RefusesMalformedLines) {
  for (const char* line :
       {"fwd bf16 pages(0)", "fwd bf16 pages(-1)", "fwd bf16 pages(16", "fwd bf16 k4 prefix(-1)",
        "fwd bf16 b3 k4 prefix(1:2)", "fwd bf16 d8 rope(9)", "fwd bf16 d8 rope(-1)", "fwd bf16 key(fp8)",
        "fwd bf16 key(int8,zz)", "fwd bf16 d3 key(int4,n)", "fwd bf16 d8 k4 prefix(2) key(int8,r)",
        "bwd bf16 d8 k4 pages(2)", "fwd bf16 k4 prefix(9999999999999999)",
        "fwd bf16 b16777216 k1099511627776 pages(1)"})
    EXPECT_THROW(parse(line), Error) << line;
}

// Two sequences of 20 keys behind a prefix of 4, in pages of 8; int8 keys with scales, rope channels apart.
class CacheValidation : public ::testing::Test {
 protected:
  CacheValidation() {
    problem_ = parse("fwd fp32 b2 h4/2 q3 k16 d8/6 prefix(4) rope(2) pages(8) key(int8,nd) value(int4,n)");
    const auto give = [&](TensorView& v) {
      std::int64_t elements = 1;
      for (const std::int64_t size : v.shape) elements *= size;
      auto& memory = memory_.emplace_back(static_cast<std::size_t>(elements) * 4);
      v.data = memory.data();
    };
    Cache& c = problem_.cache;
    for (TensorView* v : {&problem_.query, &problem_.key, &problem_.value, &problem_.output, &c.prefix_key,
                          &c.prefix_value, &c.key_rope, &c.prefix_key_rope, &c.key.scale, &c.value.scale})
      give(*v);
    c.pages.table = table_;
    // Two pages each; what lies behind them is nobody's.
    problem_.sequences[1].page = 3;
    c.pages.entries = 6;
  }

  void expect_refused(const char* argument, const Problem& p) {
    try {
      run(p);
      ADD_FAILURE() << "accepted: " << argument;
    } catch (const Error& error) {
      EXPECT_EQ(error.argument().rfind(argument, 0), 0u) << error.what() << ", wanted " << argument;
    }
  }

  std::int32_t table_[6] = {3, 1, -1, 2, 0, -1};
  std::deque<std::vector<std::byte>> memory_;
  Problem problem_;
};

TEST_F(CacheValidation, NamesTheArgumentOfEveryBreak) {
  ASSERT_NO_THROW(run(problem_));
  const std::pair<const char*, std::function<void(Problem&)>> breaks[] = {
      {"key", [](Problem& p) { p.key.dtype = Dtype::float16; }},
      {"key", [](Problem& p) { p.key.stride[3] = 2; }},
      {"key", [](Problem& p) { p.key.shape[3] = 5; }},
      {"key", [](Problem& p) { p.key.shape[2] = p.value.shape[2] = p.cache.key_rope.shape[2] = 0; }},
      {"key", [](Problem& p) { p.key.shape[0] = kHuge; }},
      {"key", [](Problem& p) { p.key.data = nullptr; }},
      {"value", [](Problem& p) { p.value.shape[0] += 1; }},
      {"value", [](Problem& p) { p.value.stride[2] += 1; }},
      {"value", [](Problem& p) { p.value.shape[3] = 5, p.output.shape[3] = 5; }},
      {"value", [](Problem& p) { p.value.dtype = Dtype::bfloat16; }},
      {"key_rope", [](Problem& p) { p.cache.key_rope.dtype = Dtype::int8; }},
      {"key_rope", [](Problem& p) { p.cache.key_rope.shape[2] = 4; }},
      {"key_rope", [](Problem& p) { p.cache.key_rope.shape[3] = kLeast; }},
      {"key_rope", [](Problem& p) { p.cache.key_rope.data = nullptr; }},
      {"prefix_key", [](Problem& p) { p.cache.prefix_key.shape[0] = 2; }},
      {"prefix_key", [](Problem& p) { p.cache.prefix_key.shape[2] = kLeast; }},
      {"prefix_key", [](Problem& p) { p.cache.prefix_key.dtype = Dtype::float32; }},
      {"prefix_key", [](Problem& p) { p.cache.prefix_key.data = nullptr; }},
      {"prefix_value", [](Problem& p) { p.cache.prefix_value.shape[2] += 1; }},
      {"prefix_value", [](Problem& p) { p.cache.prefix_value.dtype = Dtype::int8; }},
      {"prefix_key_rope", [](Problem& p) { p.cache.prefix_key_rope.shape[3] = 4; }},
      {"key.scale", [](Problem& p) { p.cache.key.scale.shape[1] = 1; }},
      {"key.scale", [](Problem& p) { p.cache.key.scale.dtype = Dtype::int8; }},
      {"key.scale", [](Problem& p) { p.cache.key.scale.stride[3] = 2; }},
      {"key.scale", [](Problem& p) { p.cache.key.scale.stride[1] = -1; }},
      {"key", [](Problem& p) { p.cache.key.scale.stride[2] = 8; }},  // per row, and a prefix
      {"key.offset",
       [](Problem& p) {
         p.cache.key.offset = p.cache.key.scale;
         p.cache.key.offset.dtype = Dtype::float16;
       }},
      {"value.scale",
       [](Problem& p) { p.value.dtype = Dtype::float32, p.cache.prefix_value.dtype = Dtype::float32; }},
      {"value.scale", [](Problem& p) { p.cache.value.by_position = true; }},
      {"pages", [](Problem& p) { p.cache.pages.entries = 4; }},
      {"pages", [](Problem& p) { p.cache.pages.entries = -1; }},
      {"pages", [](Problem& p) { p.cache.pages.entries = kHuge; }},
      {"pages", [](Problem& p) { p.sequences[0].page = -1; }},
      {"pages", [](Problem& p) { p.sequences[0].page = kHuge; }},
      {"pages", [](Problem& p) { p.sequences[0].page = 5; }},
      {"pages", [](Problem& p) { p.sequences[0].keys = 4 + 49; }},
      {"pages", [](Problem& p) { p.sequences[0].keys = kHuge; }},
      {"sequences", [](Problem& p) { p.sequences[0].keys = -1; }},
      {"sequences", [](Problem& p) { p.sequences[0].keys = kLeast; }},
      {"sequences", [](Problem& p) { p.sequences[0].keys = 3; }},
      {"sequences", [](Problem& p) { p.sequences[0].prefix = 5; }},
      {"sequences", [](Problem& p) { p.sequences[0].prefix = kLeast; }},
      {"sequences", [](Problem& p) { p.sequences[0].prefix = kHuge; }},
      {"sequences", [](Problem& p) { p.sequences[0].key = 1; }},
      {"output", [](Problem& p) { p.output.data = p.cache.key_rope.data; }},
      {"output", [](Problem& p) { p.output.data = p.cache.key.scale.data; }},
      {"cache", [](Problem& p) { p.pass = Pass::backward; }},
  };
  for (const auto& [argument, apply] : breaks) {
    Problem p = problem_;
    apply(p);
    expect_refused(argument, p);
  }
}

TEST_F(CacheValidation, RefusesEveryReachedEntryThatIsNoPage) {
  for (const std::int32_t bad :
       {-1, 4, std::numeric_limits<std::int32_t>::max(), std::numeric_limits<std::int32_t>::min()})
    for (const int at : {0, 1, 3, 4}) {
      const std::int32_t good = std::exchange(table_[at], bad);
      expect_refused("pages", problem_);
      EXPECT_THROW(run_reference(problem_), Error);
      table_[at] = good;
    }
  ASSERT_NO_THROW(run(problem_));
}

// Prefix lengths and keys without a prefix or pages are what plain problems have: 0.
TEST(PlainValidation, KnowsNoPrefixAndNoPage) {
  for (const auto& apply : {std::function<void(Sequence&)>([](Sequence& s) { s.prefix = 1; }),
                            std::function<void(Sequence&)>([](Sequence& s) { s.page = 1; })}) {
    Problem p = parse("fwd fp32 b1 h1 q2 k4 d8");
    apply(p.sequences[0]);
    EXPECT_THROW(validate(p), Error);
  }
}

// Pages that a window hides from every row may be gone: their entries are not looked at.
TEST(HiddenPages, MayHaveAnyEntry) {
  for (const std::int64_t rows : {1, 40}) {
    Problem p = parse("fwd fp32 b1 h2/1 q" + std::to_string(rows) + " k640 d8 pages(16)");
    p.sequences[0].band = {.lo = 640 - rows - 100, .hi = 640 - rows - 20};
    std::vector<float> query(static_cast<std::size_t>(2 * rows * 8), 0.5f), pool(640 * 8, 0.25f),
        output(query.size());
    p.query.data = query.data(), p.key.data = p.value.data = pool.data(), p.output.data = output.data();
    // Keys 640 − rows − 100 … 639 − 20 − (rows − 1) + … of whole steps of 32 keys are read.
    const std::int64_t first = (640 - rows - 100) / 32 * 32 / 16, last = (640 - 1 - 20) / 16;
    std::vector<std::int32_t> table(40, -1);
    for (std::int64_t page = first; page <= last; ++page) table[static_cast<std::size_t>(page)] = 0;
    p.cache.pages = {table.data(), 40};
    ASSERT_NO_THROW(run(p));
    EXPECT_NEAR(output[0], 0.25f, 1e-6f);
    table[static_cast<std::size_t>(first)] = -1;
    EXPECT_THROW(run(p), Error);
  }
}

// The reference reads a cache by itself: it agrees with itself on plain tensors.
TEST(CacheReference, IsThatOfThePlainTensors) {
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    const testing::RandomCached random(seed);
    run_reference(random.cached.problem);
    const auto bits = testing::output_bits(random.cached.problem);
    random.made->poison_outputs();
    run_reference(random.cached.twin);
    ASSERT_EQ(testing::output_bits(random.cached.twin), bits)
        << text(random.cached.problem) << "\n  seed " << seed;
  }
}

}  // namespace
}  // namespace fusion_attention
