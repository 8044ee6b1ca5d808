#include "arch/float_mode.h"

#include <gtest/gtest.h>

#include <cfenv>
#include <cfloat>

namespace fusion_attention::arch {
namespace {

float product(float x, float y) {
  volatile float v = x;
  return v * y;
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
    EXPECT_EQ(product(FLT_MIN, 0.5f), 0.0f);
    EXPECT_EQ(product(FLT_TRUE_MIN, 0x1p100f), 0.0f);
  }
  EXPECT_GT(sum(1.0f, 0x1p-30f), 1.0f);
  EXPECT_GT(product(FLT_MIN, 0.5f), 0.0f);
  EXPECT_GT(product(FLT_TRUE_MIN, 0x1p100f), 0.0f);
  std::fesetround(FE_TONEAREST);
}

}  // namespace
}  // namespace fusion_attention::arch
