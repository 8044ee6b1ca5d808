// Modes 5 to 8, pse, dropout and rope: what npu_fusion_attention puts into a Problem.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "fusion_attention/dropout_mask.h"
#include "fusion_attention/error.h"
#include "fusion_attention/families/fusion_attention.h"
#include "fusion_attention/run.h"
#include "ref/scores.h"

namespace fusion_attention {
namespace {

using Numbers = std::vector<std::int64_t>;

Array of_shape(const Numbers& shape, Element element = Element::float32, void* data = nullptr) {
  return contiguous_array(data, element, shape.data(), static_cast<int>(shape.size()));
}

// BNSD with one head.
FusionAttention dense(std::int64_t batches, std::int64_t rows, std::int64_t keys,
                      FusionAttentionOptions options, std::int64_t heads = 1) {
  options.head_num = heads, options.input_layout = "BNSD";
  return {Pass::forward, of_shape({batches, heads, rows, 4}), of_shape({batches, heads, keys, 4}),
          of_shape({batches, heads, keys, 4}), options};
}

FusionAttention packed(const Numbers& rows, const Numbers& keys, FusionAttentionOptions options,
                       std::int64_t heads = 2) {
  options.head_num = heads, options.input_layout = "TND";
  Numbers q_ends, kv_ends;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    q_ends.push_back((i > 0 ? q_ends.back() : 0) + rows[i]);
    kv_ends.push_back((i > 0 ? kv_ends.back() : 0) + keys[i]);
  }
  options.actual_seq_qlen = q_ends, options.actual_seq_kvlen = kv_ends;
  return {Pass::forward, of_shape({q_ends.back(), heads, 4}), of_shape({kv_ends.back(), heads, 4}),
          of_shape({kv_ends.back(), heads, 4}), options};
}

template <class Keeps>
void expect_band(const Sequence& s, const std::string& what, const Keeps& keeps) {
  for (std::int64_t i = 0; i < s.rows; ++i) {
    const Interval seen = s.band.row(i, s.keys);
    for (std::int64_t j = 0; j < s.keys; ++j)
      ASSERT_EQ(j >= seen.begin && j < seen.end, keeps(i, j)) << what << ": row " << i << ", key " << j;
  }
}

TEST(Scores, Mode6IsTheCausalCornerOrThePrefix) {
  FusionAttentionOptions options;
  options.sparse_mode = 6;
  options.atten_mask = of_shape({3072, 2048}, Element::boolean);
  for (std::int64_t rows = 1; rows <= 6; ++rows)
    for (std::int64_t keys = 1; keys <= 6; ++keys)
      for (std::int64_t prefix = std::max<std::int64_t>(keys - rows, 0); prefix <= keys; ++prefix) {
        options.prefix = Numbers{keys, prefix};
        const auto keeps = [&](std::int64_t i, std::int64_t j) { return j <= i + keys - rows || j < prefix; };
        const std::string what = std::to_string(rows) + " x " + std::to_string(keys);
        expect_band(dense(2, rows, keys, options).problem().sequences[1], what, keeps);
        expect_band(packed({2, rows}, {keys, keys}, options).problem().sequences[1], what, keeps);
      }
}

TEST(Scores, Modes7And8CutOneSequence) {
  FusionAttentionOptions options;
  options.atten_mask = of_shape({2048, 2048}, Element::boolean);
  const Numbers rows = {0, 3, 4, 2, 0}, keys = {2, 5, 6, 2, 1};
  for (const std::int64_t mode : {7, 8})
    for (std::int64_t next = -4; next <= (mode == 7 ? 0 : 4); ++next) {
      options.sparse_mode = mode, options.next_tokens = next;
      const FusionAttention call = packed(rows, keys, options);
      for (std::size_t b = 0; b < rows.size(); ++b) {
        const std::int64_t corner = keys[b] - rows[b];
        const std::int64_t shift = b == (mode == 7 ? 3u : 1u) ? corner + next : mode == 7 ? corner : 0;
        expect_band(call.problem().sequences[b],
                    "mode " + std::to_string(mode) + ", next " + std::to_string(next),
                    [&](std::int64_t i, std::int64_t j) { return j <= i + shift; });
      }
    }
}

TEST(Scores, Mode5TakesAValidPrefixBesideTheMask) {
  std::vector<std::uint8_t> bytes(2 * 3 * 5);
  FusionAttentionOptions options;
  options.sparse_mode = 5;
  options.atten_mask = of_shape({2, 1, 3, 5}, Element::uint8, bytes.data());
  EXPECT_TRUE(dense(2, 3, 5, options).problem().sequences[1].band.full());
  options.prefix = Numbers{1, 4};  // 1 < Skv − Sq
  EXPECT_TRUE(dense(2, 3, 5, options).problem().sequences[1].band.full());
  options.prefix = Numbers{2, 4};
  const FusionAttention call = dense(2, 3, 5, options);
  EXPECT_TRUE(call.problem().overlay);
  expect_band(call.problem().sequences[1], "mode 5",
              [](std::int64_t i, std::int64_t j) { return j <= i + 2 || j < 4; });
}

TEST(Scores, PlanesOfEveryBroadcastPse) {
  std::vector<float> data(2 * 3 * 4 * 5);
  for (const std::int64_t b : {1, 2})
    for (const std::int64_t n : {1, 3})
      for (const std::int64_t r : {1, 4}) {
        FusionAttentionOptions options;
        options.pse = of_shape({b, n, r, 5}, Element::float32, data.data());
        const Problem problem = dense(2, 4, 5, options, 3).problem();
        EXPECT_EQ(problem.bias.elements, b * n * r * 5);
        EXPECT_TRUE(problem.bias.before_scale);
        const Plane expected{b > 1 ? n * r * 5 : 0, n > 1 ? r * 5 : 0, r > 1 ? 5 : 0};
        EXPECT_EQ(problem.sequences[1].bias, expected) << b << n << r;
        EXPECT_EQ(problem.sequences[0].bias.base, 0);
      }
}

TEST(Scores, PlanesOfPackedPse) {
  FusionAttentionOptions options;
  options.pse_type = 0;
  options.pse = of_shape({2 * (3 * 3 + 4 * 6)});
  const Problem whole = packed({3, 4}, {3, 6}, options).problem();
  EXPECT_EQ(whole.sequences[1].bias, (Plane{18, 24, 6}));
  EXPECT_FALSE(whole.bias.before_scale);
  options.pse = of_shape({2 * (3 + 6)});
  EXPECT_EQ(packed({3, 4}, {3, 6}, options).problem().sequences[1].bias, (Plane{6, 6, 0}));
  options.pse = of_shape({2, 2, 1024, 2000});
  options.sparse_mode = 3;
  options.atten_mask = of_shape({2048, 2048}, Element::boolean);
  const Problem compressed = packed({1, 2000}, {1, 2000}, options).problem();
  EXPECT_EQ(compressed.bias.last_rows, 1024);
  EXPECT_EQ(compressed.sequences[1].bias, (Plane{2 * 1024 * 2000, 1024 * 2000, 2000}));
  EXPECT_NO_THROW(validate(compressed));
}

TEST(Scores, SlopesAndTheirStarts) {
  FusionAttentionOptions options;
  options.pse_type = 2;
  options.pse = of_shape({2, 3});
  options.q_start_idx = Numbers{7}, options.kv_start_idx = Numbers{3};
  const Problem problem = dense(2, 4, 5, options, 3).problem();
  EXPECT_EQ(problem.bias.kind, BiasKind::distance);
  EXPECT_EQ(problem.sequences[1].bias, (Plane{3, 1, 0}));
  EXPECT_EQ(problem.sequences[1].bias_shift, -4);
  options.sparse_mode = 8;
  options.atten_mask = of_shape({2048, 2048}, Element::boolean);
  options.pse = of_shape({2});
  const Problem cut = packed({3, 4}, {3, 6}, options).problem();
  EXPECT_EQ(cut.sequences[0].bias_shift, -4);
  EXPECT_EQ(cut.sequences[1].bias_shift, 0);
  EXPECT_EQ(cut.sequences[1].bias, (Plane{0, 1, 0}));
}

TEST(Scores, DropoutCountsScoresInTheOrderOfTheDocuments) {
  FusionAttentionOptions options;
  options.keep_prob = 0.5, options.seed = -1, options.offset = 12;
  const Problem problem = dense(2, 4, 5, options, 3).problem();
  EXPECT_EQ(problem.dropout.seed, ~std::uint64_t{0});
  EXPECT_EQ(problem.dropout.offset, 12u);
  EXPECT_EQ(problem.sequences[1].dropout, (Plane{60, 20, 5}));
  EXPECT_EQ(packed({3, 4}, {3, 6}, options).problem().sequences[1].dropout, (Plane{18, 24, 6}));
  options.keep_prob = 1;
  std::vector<std::uint8_t> bits(15);
  options.dropout_mask = of_shape({15}, Element::uint8, bits.data());
  EXPECT_TRUE(dense(2, 4, 5, options, 3).problem().dropout);
}

TEST(Scores, MasksHaveTheBitsOfTheReference) {
  std::mt19937_64 random(7);
  for (const double keep_prob : {0.0, 0.1, 0.5, 0.9, 0.999, 1.0})
    for (const std::int64_t numbers : {0, 1, 31, 128, 129, 1000}) {
      const Dropout dropout{keep_prob, random(), random()};
      std::vector<std::uint8_t> bits(static_cast<std::size_t>(dropout_mask_bytes(numbers)) + 1, 0xA5);
      dropout_mask(numbers, keep_prob, dropout.seed, dropout.offset, bits.data());
      ASSERT_EQ(bits.size() % 16, 1u);
      for (std::int64_t e = 0; e < numbers; ++e)
        ASSERT_EQ(bits[static_cast<std::size_t>(e / 8)] >> (e % 8) & 1, ref::kept(dropout, e) ? 1 : 0)
            << "seed " << dropout.seed << ", offset " << dropout.offset << ", " << keep_prob << ", " << e;
      EXPECT_EQ(bits.back(), 0xA5);
    }
  EXPECT_THROW(dropout_mask(1, 1.5, 0, 0, nullptr), Error);
  EXPECT_THROW(dropout_mask(-1, 0.5, 0, 0, nullptr), Error);
}

TEST(Scores, RopeAddsChannelsToQueryAndKeyAlone) {
  FusionAttentionOptions options;
  options.query_rope = of_shape({2, 3, 4, 2}), options.key_rope = of_shape({2, 3, 5, 2});
  const FusionAttention call = dense(2, 4, 5, options, 3);
  EXPECT_EQ(call.problem().query.channels(), 6);
  EXPECT_EQ(call.problem().key.channels(), 6);
  EXPECT_EQ(call.output_shape(), (Numbers{2, 3, 4, 4}));
  EXPECT_NO_THROW(validate(call.problem()));
}

}  // namespace
}  // namespace fusion_attention
