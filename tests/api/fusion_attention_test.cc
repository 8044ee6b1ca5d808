#include "fusion_attention/families/fusion_attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "fusion_attention/error.h"

namespace fusion_attention {
namespace {

using Numbers = std::vector<std::int64_t>;

Array of_shape(const Numbers& shape, Element element = Element::float32, void* data = nullptr) {
  return contiguous_array(data, element, shape.data(), static_cast<int>(shape.size()));
}

struct Call {
  Array query, key, value;
  FusionAttentionOptions options;

  FusionAttention read(Pass pass = Pass::forward) const { return {pass, query, key, value, options}; }
};

Call dense(const std::string& layout, std::int64_t batches, std::int64_t heads, std::int64_t kv_heads,
           std::int64_t rows, std::int64_t keys, std::int64_t depth, std::int64_t value_depth) {
  const auto shape = [&](std::int64_t n, std::int64_t s, std::int64_t d) -> Numbers {
    if (layout == "BSH") return {batches, s, n * d};
    if (layout == "SBH") return {s, batches, n * d};
    if (layout == "BSND") return {batches, s, n, d};
    return {batches, n, s, d};
  };
  Call call{of_shape(shape(heads, rows, depth)),
            of_shape(shape(kv_heads, keys, depth)),
            of_shape(shape(kv_heads, keys, value_depth)),
            {}};
  call.options.head_num = heads;
  call.options.input_layout = layout;
  return call;
}

Call packed(const Numbers& q_ends, const Numbers& kv_ends, std::int64_t tail = 0) {
  Call call{of_shape({q_ends.back() + tail, 4, 8}),
            of_shape({kv_ends.back() + tail, 2, 8}),
            of_shape({kv_ends.back() + tail, 2, 6}),
            {}};
  call.options.head_num = 4;
  call.options.input_layout = "TND";
  call.options.actual_seq_qlen = q_ends;
  call.options.actual_seq_kvlen = kv_ends;
  return call;
}

Array compressed_mask() {
  return of_shape({2048, 2048}, Element::boolean);
}

TEST(FusionAttention, ShapesOfEveryDenseLayout) {
  const std::vector<std::pair<const char*, Numbers>> outputs = {
      {"BSH", {2, 5, 24}}, {"SBH", {5, 2, 24}}, {"BSND", {2, 5, 4, 6}}, {"BNSD", {2, 4, 5, 6}}};
  for (const auto& [layout, output] : outputs) {
    const FusionAttention call = dense(layout, 2, 4, 2, 5, 7, 8, 6).read();
    EXPECT_EQ(call.output_shape(), output) << layout;
    EXPECT_EQ(call.statistics_shape(), (Numbers{2, 4, 5, 8})) << layout;
    EXPECT_EQ(call.numels(), 2 * 4 * 5 * 7) << layout;
    EXPECT_EQ(call.problem().group(), 2) << layout;
    EXPECT_EQ(call.problem().value.channels(), 6) << layout;
    EXPECT_EQ(call.problem().sequences.size(), 2u) << layout;
  }
}

TEST(FusionAttention, PackedSequencesWithTailAndAbsentOnes) {
  Call given = packed({2, 5}, {4, 9}, 3);
  given.options.actual_seq_qlen = Numbers{2, 5, 5, 0};
  given.options.actual_seq_kvlen = Numbers{4, 9, 10, 0};
  const FusionAttention call = given.read();
  const auto& sequences = call.problem().sequences;
  ASSERT_EQ(sequences.size(), 4u);
  EXPECT_EQ(sequences[1].row, 2);
  EXPECT_EQ(sequences[1].rows, 3);
  EXPECT_EQ(sequences[1].key, 4);
  EXPECT_EQ(sequences[1].keys, 5);
  EXPECT_EQ(sequences[2].rows, 0);
  EXPECT_EQ(sequences[2].keys, 1);
  EXPECT_EQ(sequences[3].rows, 0);
  EXPECT_EQ(call.output_shape(), (Numbers{8, 4, 6}));
  EXPECT_EQ(call.statistics_shape(), (Numbers{8, 4, 8}));
  EXPECT_EQ(call.numels(), 4 * (2 * 4 + 3 * 5));
}

// What the documents say of one pair, from training-ops 4.2, without bands.
bool keeps(std::int64_t mode, std::int64_t i, std::int64_t j, std::int64_t rows, std::int64_t keys,
           std::int64_t pre, std::int64_t next) {
  const std::int64_t corner = keys - rows;
  switch (mode) {
    case 0:
      return j >= i - pre && j <= i + next;
    case 2:
      return j <= i;
    case 3:
      return j <= i + corner;
    case 4:
      return j >= i + corner - pre && j <= i + corner + next;
    default:
      return true;
  }
}

// Whether the documents allow these tokens of a dense call.
bool allowed(std::int64_t mode, std::int64_t rows, std::int64_t keys, std::int64_t pre, std::int64_t next) {
  if (mode != 0 && mode != 4) return true;
  if (mode == 4) pre += rows - keys, next += keys - rows;
  if (pre < 0 && next < 0) return false;
  if (next < 0) return -next <= pre && -next < rows;
  if (pre < 0) return next >= -pre && -pre < keys;
  return true;
}

TEST(FusionAttention, BandOfEveryModeAgainstTheTable) {
  int read = 0, refused = 0;
  for (std::int64_t mode = 0; mode <= 4; ++mode) {
    for (std::int64_t rows = 1; rows <= 5; ++rows) {
      for (std::int64_t keys = 1; keys <= 5; ++keys) {
        for (std::int64_t pre = -6; pre <= 6; ++pre) {
          for (std::int64_t next = -6; next <= 6; ++next) {
            Call given = dense("BNSD", 1, 1, 1, rows, keys, 4, 4);
            std::vector<std::uint8_t> nothing(static_cast<std::size_t>(rows * keys));
            given.options.atten_mask =
                mode < 2 ? of_shape({rows, keys}, Element::uint8, nothing.data()) : compressed_mask();
            given.options.sparse_mode = mode;
            given.options.pre_tokens = pre;
            given.options.next_tokens = next;
            if (!allowed(mode, rows, keys, pre, next)) {
              EXPECT_THROW(given.read(), Error)
                  << mode << " " << rows << " " << keys << " " << pre << " " << next;
              ++refused;
              continue;
            }
            const FusionAttention call = given.read();
            const Band& band = call.problem().sequences[0].band;
            for (std::int64_t i = 0; i < rows; ++i) {
              for (std::int64_t j = 0; j < keys; ++j) {
                const Interval seen = band.row(i, keys);
                ASSERT_EQ(j >= seen.begin && j < seen.end, keeps(mode, i, j, rows, keys, pre, next))
                    << "mode " << mode << ", " << rows << " x " << keys << ", pre " << pre << ", next "
                    << next << ", row " << i << ", key " << j;
              }
            }
            ++read;
          }
        }
      }
    }
  }
  EXPECT_GT(read, 10000);
  EXPECT_GT(refused, 1000);
}

TEST(FusionAttention, WithoutMaskEveryModeIsFull) {
  for (std::int64_t mode = 0; mode <= 6; ++mode) {
    Call given = dense("BSND", 2, 4, 2, 9, 5, 8, 8);
    given.options.prefix = Numbers{1, 1};
    given.options.sparse_mode = mode;
    given.options.pre_tokens = 1;
    given.options.next_tokens = 0;
    const FusionAttention call = given.read();
    EXPECT_FALSE(call.problem().overlay);
    for (const Sequence& sequence : call.problem().sequences) EXPECT_TRUE(sequence.band.full()) << mode;
  }
}

TEST(FusionAttention, TokensThatHideNothingLeaveAFullBand) {
  Call given = dense("BNSD", 1, 1, 1, 100, 60, 4, 4);
  std::vector<std::uint8_t> mask(6000);
  given.options.atten_mask = of_shape({100, 60}, Element::boolean, mask.data());
  for (const std::int64_t tokens : {std::int64_t{100}, std::int64_t{65536}, INT64_MAX}) {
    given.options.pre_tokens = given.options.next_tokens = tokens;
    EXPECT_TRUE(given.read().problem().sequences[0].band.full()) << tokens;
  }
}

TEST(FusionAttention, MasksBroadcastByStride) {
  Call given = dense("BNSD", 2, 4, 2, 3, 5, 8, 8);
  std::vector<std::uint8_t> bytes(2 * 4 * 3 * 5);
  const std::vector<std::pair<Numbers, std::array<std::int64_t, 4>>> cases = {
      {{3, 5}, {0, 0, 5, 1}},        {{1, 1, 3, 5}, {0, 0, 5, 1}},   {{2, 1, 3, 5}, {15, 0, 5, 1}},
      {{1, 4, 3, 5}, {0, 15, 5, 1}}, {{2, 4, 3, 5}, {60, 15, 5, 1}},
  };
  for (const auto& [shape, stride] : cases) {
    given.options.atten_mask = of_shape(shape, Element::int8, bytes.data());
    EXPECT_EQ(given.read().problem().overlay.stride, stride);
  }
}

TEST(FusionAttention, LengthsAreCopied) {
  Call given = packed({3, 5}, {5, 10});
  const FusionAttention call = given.read();
  given.options.actual_seq_qlen->assign(2, 1000);
  EXPECT_EQ(call.problem().sequences[1].rows, 2);
}

TEST(FusionAttention, NotesAreSaidOncePerProcess) {
  Call full = dense("BNSD", 1, 1, 1, 4, 4, 8, 8);
  full.options.sparse_mode = 3;
  EXPECT_EQ(full.read().notes().size(), 1u);
  EXPECT_TRUE(full.read().notes().empty());

  std::vector<std::uint8_t> mask = {0, 1, 1, 1, /**/ 0, 0, 1, 1, /**/ 0, 0, 0, 1, /**/ 0, 0, 0, 0};
  Call causal = dense("BNSD", 1, 1, 1, 4, 4, 8, 8);
  causal.options.atten_mask = of_shape({4, 4}, Element::uint8, mask.data());
  causal.options.next_tokens = 0;
  EXPECT_TRUE(causal.read().notes().empty());  // the mask and the tokens agree
  mask[1] = 0;
  EXPECT_EQ(causal.read().notes().size(), 1u);
  EXPECT_TRUE(causal.read().notes().empty());
}

struct Break {
  const char* argument;
  const char* what;
  ErrorKind kind;
  std::function<void(Call&)> change;
};

void expect_refused(const Break& broken, Call call) {
  broken.change(call);
  try {
    call.read();
    ADD_FAILURE() << broken.argument << " (" << broken.what << ") was not refused";
  } catch (const Error& error) {
    EXPECT_EQ(error.argument(), broken.argument) << broken.what << ": " << error.what();
    EXPECT_EQ(error.kind(), broken.kind) << broken.what << ": " << error.what();
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
  }
}

TEST(FusionAttention, RefusalsOfDenseCalls) {
  const auto mask = [](const Numbers& shape, Element element = Element::boolean) {
    return [shape, element](Call& call) { call.options.atten_mask = of_shape(shape, element); };
  };
  const auto given = [](Array FusionAttentionOptions::* member, const Numbers& shape) {
    return [member, shape](Call& call) { call.options.*member = of_shape(shape); };
  };
  const auto prefixed = [](std::optional<Numbers> prefix) {
    return [prefix](Call& call) {
      call.options.sparse_mode = 6, call.options.prefix = prefix;
      call.options.atten_mask = of_shape({3072, 2048}, Element::boolean);
    };
  };
  const std::vector<Break> breaks = {
      {"query", "rank", ErrorKind::value, [](Call& c) { c.query = of_shape({3, 8}); }},
      {"query", "rank beyond what is kept", ErrorKind::value, [](Call& c) { c.query.rank = 30; }},
      {"query", "dtype", ErrorKind::value, [](Call& c) { c.query.element = Element::int32; }},
      {"query", "absent", ErrorKind::value, [](Call& c) { c.query = {}; }},
      {"key", "dtype", ErrorKind::value, [](Call& c) { c.key.element = Element::float16; }},
      {"key", "D", ErrorKind::value, [](Call& c) { c.key.shape[3] = 9; }},
      {"key", "batch", ErrorKind::value, [](Call& c) { c.key.shape[0] = 3; }},
      {"key", "heads", ErrorKind::value, [](Call& c) { c.key.shape[1] = 3; }},
      {"key", "no heads", ErrorKind::value, [](Call& c) { c.key.shape[1] = 0; }},
      {"value", "rank", ErrorKind::value, [](Call& c) { c.value = of_shape({2, 2, 5}); }},
      {"value", "length", ErrorKind::value, [](Call& c) { c.value.shape[2] = 6; }},
      {"value", "D of 0", ErrorKind::value, [](Call& c) { c.value.shape[3] = 0; }},
      {"query", "D of 0", ErrorKind::value, [](Call& c) { c.query.shape[3] = c.key.shape[3] = 0; }},
      {"head_num", "0", ErrorKind::value, [](Call& c) { c.options.head_num = 0; }},
      {"head_num", "another", ErrorKind::value, [](Call& c) { c.options.head_num = 2; }},
      {"input_layout", "unknown", ErrorKind::value, [](Call& c) { c.options.input_layout = "BDSN\n"; }},
      {"scale", "infinite", ErrorKind::value, [](Call& c) { c.options.scale = INFINITY; }},
      {"keep_prob", "0", ErrorKind::value, [](Call& c) { c.options.keep_prob = 0; }},
      {"keep_prob", "NaN", ErrorKind::value, [](Call& c) { c.options.keep_prob = NAN; }},
      {"inner_precise", "4", ErrorKind::value, [](Call& c) { c.options.inner_precise = 4; }},
      {"sparse_mode", "9", ErrorKind::value, [](Call& c) { c.options.sparse_mode = 9; }},
      {"sparse_mode", "7 without TND", ErrorKind::value, [](Call& c) { c.options.sparse_mode = 7; }},
      {"prefix", "missing", ErrorKind::value, prefixed({})},
      {"prefix", "count", ErrorKind::value, prefixed(Numbers{2})},
      {"prefix", "below Skv - Sq", ErrorKind::value, prefixed(Numbers{2, 1})},
      {"prefix", "above Skv", ErrorKind::value, prefixed(Numbers{6, 2})},
      {"atten_mask", "not 3072 x 2048", ErrorKind::value,
       [](Call& c) {
         c.options.sparse_mode = 6, c.options.atten_mask = compressed_mask(),
         c.options.prefix = Numbers{2, 2};
       }},
      {"atten_mask", "dtype", ErrorKind::value, mask({3, 5}, Element::float32)},
      {"atten_mask", "rows", ErrorKind::value, mask({4, 5})},
      {"atten_mask", "keys", ErrorKind::value, mask({3, 4})},
      {"atten_mask", "rank", ErrorKind::value, mask({1, 3, 5})},
      {"atten_mask", "batch", ErrorKind::value, mask({3, 1, 3, 5})},
      {"atten_mask", "heads", ErrorKind::value, mask({2, 2, 3, 5})},
      {"atten_mask", "not compressed", ErrorKind::value,
       [](Call& c) { c.options.sparse_mode = 2, c.options.atten_mask = of_shape({3, 5}, Element::boolean); }},
      {"actual_seq_qlen", "dense", ErrorKind::value, [](Call& c) { c.options.actual_seq_qlen = Numbers{3}; }},
      {"softmax_layout", "dense", ErrorKind::value, [](Call& c) { c.options.softmax_layout = "TND"; }},
      {"softmax_layout", "unknown", ErrorKind::value, [](Call& c) { c.options.softmax_layout = "BSH"; }},
      {"padding_mask", "given", ErrorKind::value, given(&FusionAttentionOptions::padding_mask, {4})},
      {"pse_type", "without pse", ErrorKind::value, [](Call& c) { c.options.pse_type = 2; }},
      {"pse", "shape", ErrorKind::value, given(&FusionAttentionOptions::pse, {2, 4, 2, 5})},
      {"pse", "compressed", ErrorKind::value, given(&FusionAttentionOptions::pse, {2, 4, 1024, 5})},
      {"pse", "dtype", ErrorKind::value,
       [](Call& c) { c.options.pse = of_shape({2, 4, 3, 5}, Element::float16); }},
      {"sink", "shape", ErrorKind::value, given(&FusionAttentionOptions::sink, {2})},
      {"sink", "dtype", ErrorKind::value, [](Call& c) { c.options.sink = of_shape({4}, Element::float16); }},
      {"dropout_mask", "dtype", ErrorKind::value, given(&FusionAttentionOptions::dropout_mask, {64})},
      {"dropout_mask", "length", ErrorKind::value,
       [](Call& c) { c.options.dropout_mask = of_shape({14}, Element::uint8); }},
      {"key_rope", "absent", ErrorKind::value, given(&FusionAttentionOptions::query_rope, {2, 4, 3, 2})},
      {"query_rope", "shape", ErrorKind::value,
       [](Call& c) {
         c.options.query_rope = of_shape({2, 4, 4, 2}), c.options.key_rope = of_shape({2, 2, 5, 2});
       }},
      {"key_rope", "D", ErrorKind::value,
       [](Call& c) {
         c.options.query_rope = of_shape({2, 4, 3, 2}), c.options.key_rope = of_shape({2, 2, 5, 3});
       }},
      {"q_start_idx", "alone", ErrorKind::value, [](Call& c) { c.options.kv_start_idx = Numbers{0}; }},
      {"kv_start_idx", "alone", ErrorKind::value, [](Call& c) { c.options.q_start_idx = Numbers{0}; }},
      {"q_start_idx", "without slopes", ErrorKind::value,
       [](Call& c) { c.options.q_start_idx = Numbers{1}, c.options.kv_start_idx = Numbers{0}; }},
  };
  dense("BNSD", 2, 4, 2, 3, 5, 8, 8).read();  // legal as it stands
  for (const Break& broken : breaks) expect_refused(broken, dense("BNSD", 2, 4, 2, 3, 5, 8, 8));
}

TEST(FusionAttention, RefusalsOfPackedCalls) {
  const std::vector<Break> breaks = {
      {"actual_seq_qlen", "missing", ErrorKind::value, [](Call& c) { c.options.actual_seq_qlen.reset(); }},
      {"actual_seq_kvlen", "empty", ErrorKind::value, [](Call& c) { c.options.actual_seq_kvlen->clear(); }},
      {"actual_seq_kvlen", "count", ErrorKind::value,
       [](Call& c) { c.options.actual_seq_kvlen = Numbers{10}; }},
      {"actual_seq_qlen", "past T", ErrorKind::value,
       [](Call& c) { c.options.actual_seq_qlen = Numbers{3, 6}; }},
      {"actual_seq_qlen", "decreasing", ErrorKind::value,
       [](Call& c) { c.options.actual_seq_qlen = Numbers{4, 3}; }},
      {"actual_seq_qlen", "negative", ErrorKind::value,
       [](Call& c) { c.options.actual_seq_qlen = Numbers{-1, 5}; }},
      {"actual_seq_kvlen", "after a trailing 0", ErrorKind::value,
       [](Call& c) {
         c.options.actual_seq_qlen = Numbers{3, 5, 5};
         c.options.actual_seq_kvlen = Numbers{5, 0, 10};
       }},
      {"actual_seq_kvlen", "huge", ErrorKind::value,
       [](Call& c) { c.options.actual_seq_kvlen = Numbers{5, INT64_MAX}; }},
      {"sparse_mode", "5", ErrorKind::value, [](Call& c) { c.options.sparse_mode = 5; }},
      {"atten_mask", "rows", ErrorKind::value,
       [](Call& c) { c.options.atten_mask = of_shape({4, 5}, Element::boolean); }},
      {"actual_seq_kvlen", "more rows than keys, mode 3", ErrorKind::value,
       [](Call& c) {
         c.options.actual_seq_kvlen = Numbers{2, 10};
         c.options.sparse_mode = 3, c.options.atten_mask = compressed_mask();
       }},
      {"next_tokens", "negative, mode 0", ErrorKind::value,
       [](Call& c) {
         c.options.next_tokens = -1, c.options.atten_mask = of_shape({3, 5}, Element::boolean);
       }},
      {"next_tockens", "in the spelling of version 1", ErrorKind::value,
       [](Call& c) {
         c.options.tockens = true;
         c.options.next_tokens = -1, c.options.atten_mask = of_shape({3, 5}, Element::boolean);
       }},
  };
  packed({3, 5}, {5, 10}).read();  // legal as it stands
  for (const Break& broken : breaks) expect_refused(broken, packed({3, 5}, {5, 10}));
}

TEST(FusionAttention, RefusalsOfGradients) {
  Call given = dense("BSND", 1, 2, 1, 3, 5, 8, 6);
  float memory[64] = {};
  const Array out = of_shape({1, 3, 2, 6}), statistics = of_shape({1, 2, 3, 8});
  const auto refused = [&](const char* argument, const Array& dy, const Array& top, const Array& total,
                           const Array& in) {
    FusionAttention call = given.read(Pass::backward);
    try {
      call.backward(dy, top, total, in, {memory, memory, memory});
      ADD_FAILURE() << argument << " was not refused";
    } catch (const Error& error) {
      EXPECT_EQ(error.argument(), argument) << error.what();
    }
  };
  refused("dy", {}, statistics, statistics, out);
  refused("dy", of_shape({1, 3, 2, 8}), statistics, statistics, out);
  refused("attention_in", out, statistics, statistics, {});
  refused("attention_in", out, statistics, statistics, of_shape({1, 3, 2, 6}, Element::float16));
  refused("softmax_max", out, {}, statistics, out);
  refused("softmax_sum", out, statistics, of_shape({1, 2, 3, 1}), out);
  refused("softmax_sum", out, statistics, of_shape({1, 2, 3, 8}, Element::float64), out);
  Array strided = statistics;
  strided.stride[2] = 0;
  refused("softmax_max", out, strided, statistics, out);
}

}  // namespace
}  // namespace fusion_attention
