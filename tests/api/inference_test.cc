// What InferenceAttention makes of the words of prompt_flash_attention, before any kernel runs.
#include "fusion_attention/families/inference.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "fusion_attention/error.h"

namespace fusion_attention {
namespace {

using Shape = std::vector<std::int64_t>;

Array array(const Shape& shape, Element element = Element::float16, void* data = nullptr) {
  return contiguous_array(data, element, shape.data(), static_cast<int>(shape.size()));
}

InferenceOptions options(std::int64_t heads, const char* layout) {
  InferenceOptions made;
  made.num_heads = heads;
  made.input_layout = layout;
  made.strict = false;
  return made;
}

InferenceAttention self(const Array& x, const InferenceOptions& options) {
  return InferenceAttention(x, x, x, options);
}

Band band_of(std::int64_t mode, std::int64_t pre, std::int64_t next, std::int64_t rows, std::int64_t keys) {
  InferenceOptions words = options(1, "BNSD");
  const bool full = mode < 2;
  words.atten_mask = array(full ? Shape{8, 12} : Shape{2048, 2048}, Element::boolean);
  words.sparse_mode = mode, words.pre_tokens = pre, words.next_tokens = next;
  words.actual_seq_lengths = {rows}, words.actual_seq_lengths_kv = {keys};
  const Array key = array({1, 1, 12, 16});
  return InferenceAttention(array({1, 1, 8, 16}), key, key, words).problem().sequences[0].band;
}

TEST(Inference, BandsGoByTheLengthsThatTakePart) {
  constexpr std::int64_t kAll = InferenceOptions::kAllTokens;
  EXPECT_EQ(band_of(0, kAll, 0, 5, 7).hi, 0);
  EXPECT_EQ(band_of(1, 0, 0, 5, 7), Band{});
  EXPECT_EQ(band_of(2, 0, 5, 5, 7).hi, 0);
  EXPECT_EQ(band_of(3, 0, 5, 5, 7).hi, 2) << "Lk - Lq, not Skv - Sq";
  EXPECT_EQ(band_of(3, 0, 5, 8, 3).hi, -5);
  const Band band = band_of(4, 3, 1, 5, 7);
  EXPECT_EQ(band.lo, 2 - 3);
  EXPECT_EQ(band.hi, 2 + 1);
}

TEST(Inference, LengthsPerBatchEntry) {
  InferenceOptions words = options(2, "BSH");
  words.actual_seq_lengths = {3, 0, 8};
  words.actual_seq_lengths_kv = {5};
  const InferenceAttention call = self(array({3, 8, 32}), words);
  ASSERT_EQ(call.problem().sequences.size(), 3U);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(call.problem().sequences[i].rows, (*words.actual_seq_lengths)[i]);
    EXPECT_EQ(call.problem().sequences[i].keys, 5);
    EXPECT_EQ(call.problem().sequences[i].batch, static_cast<std::int64_t>(i));
  }
  EXPECT_EQ(call.output_shape(), (Shape{3, 8, 32}));
  EXPECT_EQ(call.lse_shape(), (Shape{3, 2, 8, 1}));
}

TEST(Inference, TransposedOutput) {
  const InferenceAttention call = self(array({2, 4, 8, 16}), options(4, "BNSD_BSND"));
  EXPECT_EQ(call.output_shape(), (Shape{2, 8, 4, 16}));
  EXPECT_EQ(call.problem().output.shape, call.problem().query.shape);
  EXPECT_EQ(call.problem().output.stride[1], 16);
  EXPECT_EQ(call.problem().output.stride[2], 4 * 16);
}

TEST(Inference, PackedSequences) {
  InferenceOptions words = options(4, "TND");
  words.actual_seq_lengths = words.actual_seq_lengths_kv = {3, 3, 8};
  const InferenceAttention call = self(array({8, 4, 16}), words);
  ASSERT_EQ(call.problem().sequences.size(), 3U);
  EXPECT_EQ(call.problem().sequences[2].row, 3);
  EXPECT_EQ(call.problem().sequences[2].rows, 5);
  EXPECT_EQ(call.lse_shape(), (Shape{8, 4, 1}));
}

TEST(Inference, OnlyHalvesWithoutBiasAreRounded) {
  InferenceOptions words = options(4, "BNSD");
  const Shape shape{2, 4, 8, 16};
  EXPECT_TRUE(self(array(shape), words).problem().half_scores);
  EXPECT_FALSE(self(array(shape, Element::bfloat16), words).problem().half_scores);
  words.pse_shift = array({1, 4, 9, 10});
  const InferenceAttention biased = self(array(shape), words);
  EXPECT_FALSE(biased.problem().half_scores);
  EXPECT_FALSE(biased.problem().bias.before_scale);
  EXPECT_EQ(biased.problem().sequences[1].bias, (Plane{0, 90, 10}));
  words.pse_shift = {};
  words.sparse_mode = 10;  // torch_npu's high precision
  EXPECT_FALSE(self(array(shape), words).problem().half_scores);
}

TEST(Inference, ScalesAreDecoded) {
  const float exact = 0.1F;
  const std::uint64_t bits = std::bit_cast<std::uint32_t>(exact) | std::uint64_t{1} << 46;
  const float kept = std::bit_cast<float>(std::bit_cast<std::uint32_t>(exact) & 0xFFFFE000U);
  ASSERT_NE(exact, kept);
  const auto scale = [](const void* data, Element element) {
    return array({1}, element, const_cast<void*>(data));
  };
  InferenceOptions words = options(4, "BNSD");
  const float weight = 127;
  words.quant_scale1 = scale(&weight, Element::float32);
  for (const Element element : {Element::uint64, Element::int64}) {
    words.deq_scale1 = words.deq_scale2 = scale(&bits, element);
    const InferenceAttention call = self(array({2, 4, 8, 16}, Element::int8), words);
    EXPECT_EQ(call.problem().integer.score_scale, kept);
    EXPECT_EQ(call.problem().integer.value_scale, kept);
    EXPECT_EQ(call.problem().integer.weight_scale, 127);
    EXPECT_EQ(call.output_element(), Element::float16);
  }
  words.deq_scale1 = words.deq_scale2 = scale(&exact, Element::float32);
  EXPECT_EQ(self(array({2, 4, 8, 16}, Element::int8), words).problem().integer.score_scale, exact);
}

TEST(Inference, ScalesOfTheOutputAreOrderedByHeadAndChannel) {
  std::vector<float> scale(8), offset(8);
  for (std::size_t i = 0; i < 8; ++i) scale[i] = static_cast<float>(i), offset[i] = -scale[i];
  InferenceOptions words = options(2, "BNSD");
  words.quant_scale2 = array({2, 4}, Element::float32, scale.data());
  words.quant_scale2.stride = {1, 2};  // as it lies in memory: [4, 2]
  words.quant_offset2 = array({1, 2, 1, 4}, Element::float32, offset.data());
  const InferenceAttention call = self(array({1, 2, 8, 4}), words);
  const OutputScaling& scaling = call.problem().output_scaling;
  EXPECT_EQ(call.output_element(), Element::int8);
  ASSERT_EQ(scaling.channels, 8);
  EXPECT_EQ(std::vector<float>(scaling.scale, scaling.scale + 8),
            (std::vector<float>{0, 2, 4, 6, 1, 3, 5, 7}));
  EXPECT_EQ(std::vector<float>(scaling.offset, scaling.offset + 8), offset);
}

TEST(Inference, LseIsInfiniteWhereNothingIsSeen) {
  std::vector<float> x(3 * 4, 0.0F), out(3 * 4), lse(3);
  InferenceOptions words = options(1, "BNSD");
  words.actual_seq_lengths = {2};
  words.inner_precise = 0;
  self(array({1, 1, 3, 4}, Element::float32, x.data()), words).forward(out.data(), lse.data());
  EXPECT_NEAR(lse[0], std::log(3.0F), 1e-6);
  EXPECT_NEAR(lse[1], std::log(3.0F), 1e-6);
  EXPECT_EQ(lse[2], std::numeric_limits<float>::infinity());
}

TEST(Inference, DefaultsAreThoseOfTheDocument) {
  const InferenceOptions prompt, fused(Interface::npu_fused_infer_attention_score);
  EXPECT_EQ(prompt.interface, Interface::npu_prompt_flash_attention);
  EXPECT_EQ(prompt.next_tokens, 0);
  EXPECT_EQ(prompt.inner_precise, 1);
  EXPECT_EQ(fused.next_tokens, InferenceOptions::kAllTokens);
  EXPECT_EQ(fused.inner_precise, 0);
  EXPECT_THROW(InferenceOptions{Interface::npu_fusion_attention}, Error);
}

TEST(Inference, KindsOfRefusals) {
  const auto kind = [](Interface interface, const Array& x, const char* layout) {
    InferenceOptions words = options(4, layout);
    words.interface = interface;
    try {
      self(x, words);
    } catch (const Error& error) {
      return error.kind();
    }
    ADD_FAILURE() << "accepted";
    return ErrorKind::memory;
  };
  const Array whole = array({2, 4, 8, 16}), integers = array({2, 4, 8, 16}, Element::int32);
  EXPECT_EQ(kind(Interface::prompt_flash_attention, integers, "BNSD"), ErrorKind::type);
  EXPECT_EQ(kind(Interface::prompt_flash_attention, whole, "BSND"), ErrorKind::form);
  EXPECT_EQ(kind(Interface::prompt_flash_attention, whole, "BSH"), ErrorKind::form);
  EXPECT_EQ(kind(Interface::npu_prompt_flash_attention, integers, "BNSD"), ErrorKind::value);
  EXPECT_EQ(kind(Interface::npu_prompt_flash_attention, whole, "SBH"), ErrorKind::value);
  EXPECT_EQ(kind(Interface::npu_fusion_attention, whole, "BNSD"), ErrorKind::value);
}

}  // namespace
}  // namespace fusion_attention
