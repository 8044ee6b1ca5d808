// The softmax of a step by itself: what it does to one row's state, on known scores.
#include "kernels/softmax.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "arch/scalar.h"

namespace fusion_attention::testing {
namespace {

using arch::Fp32, arch::Scalar;
using kernels::SoftmaxState, kernels::SoftmaxStep, kernels::visible_bits;

TEST(VisibleBits, AreTheKeysOfTheInterval) {
  for (int begin = -40; begin <= 40; ++begin)
    for (int end = -40; end <= 72; ++end) {
      const std::uint32_t bits = visible_bits(begin, end);
      for (int j = 0; j < 32; ++j)
        ASSERT_EQ(bits >> j & 1, j >= begin && j < end) << begin << " " << end << " " << j;
    }
}

TEST(HiddenBits, ReadBytesOfAnyStrideAndNoneBehindTheLast) {
  std::vector<std::uint8_t> bytes(200, 0);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = i % 3 == 0 ? static_cast<std::uint8_t>(i + 1) : 0;
  for (const std::int64_t stride : {0, 1, 2, 5})
    for (const std::int64_t key : {0, 1, 7})
      for (const std::int64_t n : {1, 15, 16, 17, 31, 32}) {
        const std::uint32_t bits = kernels::hidden_bits<Scalar>(bytes.data(), stride, key, n);
        for (int j = 0; j < 32; ++j)
          ASSERT_EQ(bits >> j & 1, j < n && bytes[static_cast<std::size_t>((key + j) * stride)] != 0);
      }
}

// One row block with two columns of O, of which row kRow is looked at.
class SoftmaxRowTest : public ::testing::Test {
 protected:
  static constexpr int kRow = 19, kColumns = 2, kSteps = 4;

  SoftmaxRowTest() {
    for (int r = 0; r < 32; ++r) state_->start(r, {0, 32 * kSteps}, nullptr);
    for (float& x : o_) x = 1.0f;
  }
  void scores(const std::vector<float>& s) {
    for (int j = 0; j < 32; ++j) s_[arch::c_offset(kRow, j / 16) + j % 16] = s[static_cast<std::size_t>(j)];
  }
  SoftmaxStep<Scalar, Fp32> step(int index) {
    return {.state = state_.get(),
            .s = s_,
            .p = p_,
            .p_plane = 0,
            .raises = &raises_,
            .key = 32 * index,
            .keys = 32 * kSteps,
            .mask_key = 1,
            .scale = kernels::kLog2E,
            .begin = 0,
            .index = index};
  }
  float p(int key) const {
    float x;
    std::memcpy(&x, p_ + key / 16 * arch::kGroupBytes + kRow * arch::kLine + key % 16 * 4, 4);
    return x;
  }

  std::unique_ptr<SoftmaxState<Scalar>> state_ = std::make_unique<SoftmaxState<Scalar>>();
  alignas(64) float s_[arch::kBlockFloats] = {};
  alignas(64) float o_[kColumns * arch::kBlockFloats];
  alignas(64) std::byte p_[kSteps * 2 * arch::kGroupBytes] = {};
  kernels::Raises raises_;
};

TEST_F(SoftmaxRowTest, TheReferenceIsAnIntegerAndMovesOnlyPastTheHeadroom) {
  std::vector<float> s(32, 0.0f);
  s[3] = 2.0f;  // 2.885 in base 2
  scores(s);
  step(0).plain()(kRow);
  EXPECT_EQ(state_->m[kRow], 2.0f);
  s[3] = 10.4f * 0.6931472f;  // 8.4 above the reference
  scores(s);
  step(1).plain()(kRow);
  EXPECT_EQ(state_->m[kRow], 10.0f);
  s[3] = 17.9f * 0.6931472f;  // 7.9 above
  scores(s);
  step(2).plain()(kRow);
  EXPECT_EQ(state_->m[kRow], 10.0f);
  EXPECT_NEAR(state_->finish(kRow, -kernels::kInfinity).max, s[3], 1e-5);
}

TEST_F(SoftmaxRowTest, MovesRescaleEverythingSummedSoFarExactly) {
  scores(std::vector<float>(32, 0.25f));
  step(0).plain()(kRow);
  const float before = p(5), sum = Scalar::reduce_add(Scalar::load(state_->l[kRow]));
  scores(std::vector<float>(32, 20.0f * 0.6931472f + 0.001f));
  step(1).plain()(kRow);
  EXPECT_EQ(state_->m[kRow], 20.0f);
  EXPECT_NEAR(Scalar::reduce_add(Scalar::load(state_->l[kRow])), 32 * p(32) + sum * 0x1p-20f, 1e-4);
  const float second = p(32 + 5);
  step(2).plain()(kRow);  // does not move
  const float third = p(64 + 5);
  scores(std::vector<float>(32, 60.0f * 0.6931472f + 0.001f));
  step(3).plain()(kRow);
  EXPECT_EQ(state_->m[kRow], 60.0f);
  kernels::settle<Scalar, Fp32>(raises_, state_->m, p_, 0, 0, o_, kColumns);
  EXPECT_EQ(raises_.rows, 0u);
  EXPECT_EQ(p(5), before * 0x1p-60f);
  EXPECT_EQ(p(32 + 5), second * 0x1p-40f);
  EXPECT_EQ(p(64 + 5), third * 0x1p-40f);
  EXPECT_EQ(o_[arch::c_offset(kRow, 1)], 0x1p-60f);
  EXPECT_EQ(o_[arch::kBlockFloats + arch::c_offset(kRow, 0) + 3], 0x1p-60f);
  EXPECT_EQ(o_[arch::c_offset(kRow + 1, 0)], 1.0f) << "another row";
}

TEST_F(SoftmaxRowTest, StatisticsAreRelativeToTheTrueMaximum) {
  std::vector<float> s(32);
  for (int j = 0; j < 32; ++j) s[static_cast<std::size_t>(j)] = 0.3f * static_cast<float>(j % 7) - 5.0f;
  scores(s);
  step(0).plain()(kRow);
  double sum = 0;
  for (const float x : s) sum += std::exp(double{x} - double{s[6]});
  const auto done = state_->finish(kRow, -kernels::kInfinity);
  EXPECT_NEAR(done.max, s[6], 1e-6);
  EXPECT_NEAR(done.sum, sum, 1e-5);
}

// A part step in which everything is visible is a full step, bit for bit.
TEST_F(SoftmaxRowTest, PartAndFullStepsAgree) {
  std::vector<float> s(32);
  for (int j = 0; j < 32; ++j) s[static_cast<std::size_t>(j)] = std::sin(static_cast<float>(j)) * 9;
  scores(s);
  step(0).plain()(kRow);  // moves the reference, where scores are rounded once more
  step(1).plain()(kRow);
  step(2).general()(kRow);
  for (int j = 0; j < 32; ++j) ASSERT_EQ(p(32 + j), p(64 + j)) << j;
}

TEST_F(SoftmaxRowTest, HiddenScoresMayBeAnything) {
  std::vector<float> s(32, NAN);
  s[4] = 1.0f, s[30] = INFINITY;
  scores(s);
  std::vector<std::uint8_t> mask(32 * kSteps, 7);
  mask[4] = 0, mask[9] = 0;
  state_->start(kRow, {2, 9}, mask.data());
  step(0).general()(kRow);
  for (int j = 0; j < 32; ++j)
    EXPECT_NEAR(p(j), j == 4 ? std::exp2(1.4426950f - 1) : 0.0f, j == 4 ? 1e-5 : 0) << j;
  EXPECT_NEAR(state_->finish(kRow, -kernels::kInfinity).max, 1, 1e-6);
  EXPECT_NEAR(state_->finish(kRow, -kernels::kInfinity).sum, 1, 1e-6);
}

TEST_F(SoftmaxRowTest, ASinkFarAboveLeavesNoWeightAndNoEmptyRow) {
  scores(std::vector<float>(32, 1.0f));
  step(0).plain()(kRow);
  const auto done = state_->finish(kRow, 200.0f);
  EXPECT_EQ(done.inverse, 0.0f);
  EXPECT_FALSE(done.nothing);
  EXPECT_EQ(done.max, 200.0f);
}

TEST_F(SoftmaxRowTest, RowsThatSawNothing) {
  const auto untouched = state_->finish(kRow, -kernels::kInfinity);
  scores(std::vector<float>(32, -INFINITY));
  step(0).plain()(kRow);
  for (const auto& done : {untouched, state_->finish(kRow, -kernels::kInfinity)}) {
    EXPECT_TRUE(done.nothing);
    EXPECT_EQ(done.max, -FLT_MAX);
    EXPECT_EQ(done.sum, 0.0f);
  }
}

}  // namespace
}  // namespace fusion_attention::testing
