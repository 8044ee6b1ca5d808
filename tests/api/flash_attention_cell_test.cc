// The ways in which a mask is made cheaper agree, in both passes, with the dearest one: numbers for every
// pair. What the document says is tests/python/test_cell.py's.
#include "fusion_attention/families/flash_attention_cell.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "fusion_attention/error.h"
#include "fusion_attention/run.h"
#include "support/random.h"

namespace fusion_attention {
namespace {

constexpr std::int64_t kBatches = 2, kHeads = 2, kRows = 300, kKeys = 290, kDepth = 8, kTile = 128;
using Floats = std::vector<float>;

Array array_of(Floats& data, std::initializer_list<std::int64_t> shape) {
  return contiguous_array(data.data(), Element::float32, shape.begin(), static_cast<int>(shape.size()));
}

Floats draw(std::mt19937_64& random, std::int64_t count) {
  std::normal_distribution<float> normal;
  Floats values(static_cast<std::size_t>(count));
  for (float& value : values) value = normal(random);
  return values;
}

// What one pass writes.
struct Results {
  Floats out, max, sum, dq, dk, dv;

  Results()
      : out(kBatches * kHeads * kRows * kDepth),
        max(kBatches * kRows * kHeads),
        sum(max.size()),
        dq(out.size()),
        dk(kBatches * kHeads * kKeys * kDepth),
        dv(dk.size()) {}
};

struct Operands {
  Floats query, key, value, dy, mask, alibi;

  explicit Operands(std::mt19937_64& random)
      : query(draw(random, kBatches * kHeads * kRows * kDepth)),
        key(draw(random, kBatches * kHeads * kKeys * kDepth)),
        value(draw(random, kBatches * kHeads * kKeys * kDepth)),
        dy(draw(random, kBatches * kHeads * kRows * kDepth)),
        alibi(draw(random, kBatches * kHeads * kKeys)) {}

  Array q() { return array_of(query, {kBatches, kHeads, kRows, kDepth}); }
  Array k() { return array_of(key, {kBatches, kHeads, kKeys, kDepth}); }
  Array v() { return array_of(value, {kBatches, kHeads, kKeys, kDepth}); }

  FlashAttentionCellOptions options(std::int64_t before, std::int64_t after, bool with_alibi, bool small) {
    FlashAttentionCellOptions options;
    options.head_dim = kDepth;
    options.prev_block_num = before;
    options.next_block_num = after;
    options.alibi = with_alibi;
    if (with_alibi) options.alibi_mask = array_of(alibi, {kBatches, kHeads, 1, kKeys});
    options.attention_mask = small ? array_of(mask, {1, kTile, kTile}) : array_of(mask, {1, kRows, kKeys});
    return options;
  }
};

Results by_cell(Operands& operands, const FlashAttentionCellOptions& options) {
  Results r;
  FlashAttentionCell(Pass::forward, operands.q(), operands.k(), operands.v(), options)
      .forward(r.out.data(), r.max.data(), r.sum.data());
  const Array dy = array_of(operands.dy, {kBatches, kHeads, kRows, kDepth});
  const Array out = array_of(r.out, {kBatches, kHeads, kRows, kDepth});
  FlashAttentionCell(Pass::backward, operands.q(), operands.k(), operands.v(), options)
      .backward(dy, out, r.max.data(), r.sum.data(), r.dq.data(), r.dk.data(), r.dv.data());
  return r;
}

// The same mask for every row and key.
Floats spread(const Floats& small) {
  Floats mask(kRows * kKeys, 0.0f);
  for (std::int64_t i = 0; i < kRows; ++i)
    for (std::int64_t j = 0; j < kKeys; ++j)
      if (i / kTile == j / kTile)
        mask[static_cast<std::size_t>(i * kKeys + j)] =
            small[static_cast<std::size_t>(i % kTile * kTile + j % kTile)];
  return mask;
}

void expect_near(const Floats& got, const Floats& wanted, const char* what) {
  for (std::size_t i = 0; i < got.size(); ++i)
    ASSERT_NEAR(got[i], wanted[i], 2e-4 + 1e-4 * std::abs(wanted[i])) << what << " at " << i;
}

TEST(FlashAttentionCell, ASmallMaskIsTheSameMaskSpreadOut) {
  std::mt19937_64 random(testing::seed());
  for (const bool causal : {true, false})
    for (const bool alibi : {false, true})
      for (const auto& [before, after] : {std::pair{1, 0}, {0, 1}, {65536, 65536}, {0, 0}}) {
        SCOPED_TRACE(testing::seed_line() + " causal " + std::to_string(causal) + " alibi " +
                     std::to_string(alibi) + " blocks " + std::to_string(before) + ", " +
                     std::to_string(after));
        Operands operands(random);
        Floats small(kTile * kTile);
        for (std::int64_t i = 0; i < kTile * kTile; ++i)
          small[static_cast<std::size_t>(i)] =
              causal ? static_cast<float>(i % kTile > i / kTile) : 1e-4f * static_cast<float>(random() % 3);
        operands.mask = small;
        const Results parts = by_cell(operands, operands.options(before, after, alibi, true));
        operands.mask = spread(small);
        operands.mask[0] += 1e-9f;  // neither 0 nor 1: added, never hidden
        const Results whole = by_cell(operands, operands.options(before, after, alibi, false));
        expect_near(parts.out, whole.out, "out");
        expect_near(parts.dq, whole.dq, "dq");
        expect_near(parts.dk, whole.dk, "dk");
        expect_near(parts.dv, whole.dv, "dv");
      }
}

TEST(FlashAttentionCell, RefusesInOneSentence) {
  std::mt19937_64 random(testing::seed());
  Operands operands(random);
  operands.mask.resize(kRows * kKeys);
  const auto message = [&](const FlashAttentionCellOptions& options) -> std::string {
    try {
      FlashAttentionCell(Pass::forward, operands.q(), operands.k(), operands.v(), options);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  FlashAttentionCellOptions options = operands.options(0, 0, false, false);
  EXPECT_EQ(message(options), "");
  options.head_dim = 9;
  EXPECT_EQ(message(options), "query: got [2, 2, 300, 8], allowed is a last axis of head_dim = 9");
  options.head_dim = 0;
  EXPECT_EQ(message(options), "head_dim: got 0, allowed is 1 or more");
  options = operands.options(0, 0, false, false);
  options.tiling_stgy_name = "dense";
  EXPECT_EQ(message(options),
            "tiling_stgy_name: got \"dense\", allowed is \"sparse\", \"xunfei\" or \"wukong\"");
  options = operands.options(0, 0, false, false);
  options.all_heads = 1;
  EXPECT_EQ(message(options), "first_head: got 0, allowed is a slice within all_heads = 1");
}

}  // namespace
}  // namespace fusion_attention
