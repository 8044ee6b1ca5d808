#include "arch/float_mode.h"

#include <gtest/gtest.h>

#include <cfenv>
#include <cfloat>

namespace fusion_attention::arch {
namespace {

float half_of(float x) {
  volatile float v = x;
  return v * 0.5f;
}

float sum(float x, float y) {
  volatile float v = x;
  return v + y;
}

TEST(FloatMode, FlushesAndRoundsToNearestOnlyWhileItLives) {
#if !defined(__x86_64__)
  GTEST_SKIP() << "FloatMode does nothing here";
#endif
  std::fesetround(FE_UPWARD);
  EXPECT_GT(sum(1.0f, 0x1p-30f), 1.0f);
  {
    const FloatMode mode;
    EXPECT_EQ(sum(1.0f, 0x1p-30f), 1.0f);
    EXPECT_EQ(half_of(FLT_MIN), 0.0f);
    EXPECT_EQ(sum(FLT_TRUE_MIN, 0.0f), 0.0f);
  }
  EXPECT_GT(sum(1.0f, 0x1p-30f), 1.0f);
  EXPECT_GT(half_of(FLT_MIN), 0.0f);
  EXPECT_GT(sum(FLT_TRUE_MIN, 0.0f), 0.0f);
  std::fesetround(FE_TONEAREST);
}

}  // namespace
}  // namespace fusion_attention::arch
