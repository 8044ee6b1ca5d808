// The line of a problem, and every refusal of validate().
#include "fusion_attention/problem.h"

#include <gtest/gtest.h>

#include <array>
#include <functional>
#include <limits>
#include <memory>
#include <utility>

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
  for (const char* line : {"",
                           "fwd",
                           "fwd bf16 b",
                           "fwd bf16 bx",
                           "fwd bf17 b1",
                           "fwd bf16 q-1",
                           "fwd bf16 scale=",
                           "fwd bf16 band(1)",
                           "fwd bf16 band(1,2",
                           "fwd bf16 seqs(1:2",
                           "fwd bf16 overlay(kb)",
                           "fwd bf16 b99999999999999999999",
                           "fwd bf16 h3/2",
                           "fwd bf16 d0",
                           "fwd bf16 seqs(0:0:5:0:1:0:0:-inf:inf)",
                           "fwd bf16 band(inf,-inf,3)",
                           "nonsense",
                           "fwd bf16 b16777217",
                           "fwd bf16 h1099511627776 q1099511627776",
                           "fwd bf16 k2099511627776",
                           "fwd bf16 h1099511627776 q1048576 k1048576 overlay(bnqk)",
                           "fwd bf16 band(-inf,0,0,2000000000000)",
                           "fwd bf16 scale=nan",
                           "fwd bf16 scale=1e999",
                           "fwd bf16 b1b"})
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
      {"sequences", [](Problem& p) { p.sequences[0].row0 = Band::kFar; }},
      {"sequences", [](Problem& p) { p.sequences[1].key0 = Band::kFar - 6; }},
      {"sequences", [](Problem& p) { p.sequences[1].rows = 0, p.sequences[1].batch = 0; }},  // shares keys
      {"band.block", [](Problem& p) { p.sequences[0].band.block = kHuge; }},
      {"band.block", [](Problem& p) { p.sequences[0].band.block = 0; }},
      {"band.prefix", [](Problem& p) { p.sequences[0].band.prefix = -1; }},
      {"band.prefix", [](Problem& p) { p.sequences[0].band.lo = 0, p.sequences[0].band.prefix = 2; }},
      {"band", [](Problem& p) { p.sequences[0].band.hi = kHuge; }},
      {"overlay", [](Problem& p) { p.overlay.stride[2] = -1; }},
      {"overlay", [](Problem& p) { p.overlay.stride[1] = kHuge / 2; }},
      {"statistics.copies", [](Problem& p) { p.statistics.copies = kHuge / 2; }},
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

// Elements [first, first + 400) of one buffer serve every argument, as far as a test moves them there.
struct OneBuffer {
  std::array<float, 4000> memory{};
  std::unique_ptr<testing::Case> made;
  Problem problem;

  explicit OneBuffer(Pass pass)
      : made(std::make_unique<testing::Case>(dense_problem(pass, Dtype::float32, 2, 2, 2, 5, 5, 4, 4, 1, {}),
                                             1, testing::Fill::normal, testing::Layout::contiguous)),
        problem(made->problem) {}
  void place(TensorView& view, int at, const std::array<std::int64_t, 4>& stride) {
    view.data = memory.data() + at, view.stride = stride;
  }
};

TEST(Validate, RefusesMemoryThatIsMissingMisalignedOrShared) {
  const std::array<std::int64_t, 4> dense{40, 20, 4, 1};
  const std::pair<const char*, std::function<void(OneBuffer&)>> breaks[] = {
      {"key", [](OneBuffer& t) { t.problem.key.data = nullptr; }},
      {"query",
       [](OneBuffer& t) { t.problem.query.data = static_cast<std::byte*>(t.problem.query.data) + 1; }},
      {"output", [](OneBuffer& t) { t.problem.output.data = t.problem.query.data; }},
      {"output", [](OneBuffer& t) { t.problem.output.stride[2] = 0; }},
      {"output", [](OneBuffer& t) { t.place(t.problem.output, 0, {40, 20, 1, 1}); }},
      {"output", [](OneBuffer& t) { t.place(t.problem.output, 0, {40, 10, 4, 1}); }},
      {"output",
       [&](OneBuffer& t) {
         t.place(t.problem.value, 79, dense);
         t.place(t.problem.output, 0, dense);
       }},
      {"output",  // columns 0 … 3 and 3 … 6 of rows of 24
       [](OneBuffer& t) {
         t.place(t.problem.query, 0, {120, 8, 24, 1});
         t.place(t.problem.output, 3, {120, 8, 24, 1});
       }},
      {"statistics.max",
       [](OneBuffer& t) { t.problem.statistics.max = static_cast<float*>(t.problem.output.data) + 79; }},
      {"statistics.sum", [](OneBuffer& t) { t.problem.statistics.sum = t.problem.statistics.max + 159; }},
      {"output",
       [](OneBuffer& t) {
         t.problem.overlay = {static_cast<std::uint8_t*>(t.problem.output.data) + 319, {0, 0, 5, 1}};
       }},
  };
  for (std::size_t i = 0; i < std::size(breaks); ++i) {
    OneBuffer t(Pass::forward);
    ASSERT_NO_THROW(run(t.problem));
    breaks[i].second(t);
    try {
      run(t.problem);
      ADD_FAILURE() << "accepted: break " << i << " of " << breaks[i].first;
    } catch (const Error& error) {
      EXPECT_EQ(error.argument(), breaks[i].first) << "break " << i << ": " << error.what();
    }
  }
}

// Gradients that lie between one another in one buffer, as the slices of a packed dQKV do, are apart.
TEST(Validate, TakesInterleavedOutputs) {
  const std::pair<std::array<std::int64_t, 4>, int> layouts[] = {
      {{120, 4, 24, 1}, 8},   // [B, S, 3, N, D]
      {{120, 20, 4, 1}, 40},  // [B, 3, N, S, D]
      {{120, 60, 4, 1}, 20},  // [B, N, 3, S, D]
      {{40, 20, 4, 1}, 80},   // one behind the other
      {{120, 60, 12, 3}, 1},  // [B, N, S, D, 3]
  };
  for (const auto& [stride, apart] : layouts) {
    OneBuffer t(Pass::backward);
    t.place(t.problem.query_gradient, 0, stride);
    t.place(t.problem.key_gradient, apart, stride);
    t.place(t.problem.value_gradient, 2 * apart, stride);
    EXPECT_NO_THROW(run(t.problem)) << apart;
    t.place(t.problem.value_gradient, 2 * apart - 1, stride);
    EXPECT_THROW(run(t.problem), Error) << apart;
  }
}

// The mask of packed sequences is as large as the longest of them, not as the pack: what lies behind it may
// be an output.
TEST(Validate, TakesAnOutputRightBehindTheMaskOfPackedSequences) {
  testing::Case made(dense_problem(Pass::forward, Dtype::float32, 1, 1, 1, 12, 15, 4, 4, 1, {}), 1,
                     testing::Fill::normal, testing::Layout::contiguous);
  made.problem.sequences = {
      {.batch = 0, .row = 0, .rows = 8, .key = 0, .keys = 5, .row0 = 0, .key0 = 0, .band = {}},
      {.batch = 0, .row = 8, .rows = 4, .key = 5, .keys = 10, .row0 = 0, .key0 = 0, .band = {}}};
  alignas(4) std::array<std::uint8_t, 80 + 12 * 4 * 4> memory{};
  made.problem.output.data = memory.data() + 80;
  made.problem.overlay = {memory.data(), {0, 0, 10, 1}};  // 8 × 10
  EXPECT_NO_THROW(run(made.problem));
  made.problem.output.data = memory.data() + 76;
  EXPECT_THROW(run(made.problem), Error);
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
