// The emulated tile unit against the published pseudo-code, worked by hand.
#include "arch/amx_emulated.h"

#include <gtest/gtest.h>

#include <bit>
#include <cfloat>
#include <cstring>

#include "arch/float_mode.h"
#include "support/guarded.h"

namespace fusion_attention::arch {
namespace {

using Unit = EmulatedTileUnit;
using testing::Guarded;

constexpr int kC = 0, kA = 4, kB = 6;

// One row of A, one column of B, one C: the rest is zero.
struct Dot {
  alignas(64) bf16 a[16][32] = {};
  alignas(64) bf16 b[16][32] = {};
  alignas(64) float c[16][16] = {};

  void pair(int unit, float a0, float b0, float a1, float b1) {
    a[0][2 * unit] = from_float<bf16>(a0);
    a[0][2 * unit + 1] = from_float<bf16>(a1);
    b[unit][0] = from_float<bf16>(b0);
    b[unit][1] = from_float<bf16>(b1);
  }
  float multiply() {
    AmxEmulated::begin();
    Unit::load<kC>(c);
    Unit::load<kA>(a);
    Unit::load_stream<kB>(b);
    Unit::multiply<kC, kA, kB>();
    Unit::store<kC>(c);
    AmxEmulated::end();
    return c[0][0];
  }
};

TEST(EmulatedTiles, EvenAndOddProductsHaveTheirOwnSums) {
  Dot dot;
  dot.pair(0, 0x1p24f, 1, -0x1p24f, 1);
  dot.pair(1, 1, 1, 0, 0);          // lost in the even sum, whose ulp is 2
  dot.c[0][0] = 5;                  // added last
  EXPECT_EQ(dot.multiply(), 5.0f);  // one common sum would give 6
  Dot small;
  small.pair(0, 0x1p-12f, 0x1p-12f, 0x1p-13f, 0x1p-12f);
  small.c[0][0] = 1;
  EXPECT_EQ(small.multiply(),
            1 + 0x1p-23f);  // 1.5 · 2^-24 added at once rounds up; its parts one by one would not
}

TEST(EmulatedTiles, ProductsAreFused) {
  Dot dot;
  const float x = 1 + 0x1p-7f;
  dot.pair(0, -1, 1 + 0x1p-6f, 0, 0);
  dot.pair(1, x, x, 0, 0);
  EXPECT_EQ(dot.multiply(), 0x1p-14f);
}

TEST(EmulatedTiles, DenormalsAreZeroInWhateverMode) {
  for (bool flush : {false, true}) {
    alignas(FloatMode) std::byte place[sizeof(FloatMode)];
    FloatMode* mode = flush ? new (place) FloatMode : nullptr;
    Dot operand, accumulator, product, cancelled, result;
    operand.a[0][0].bits = 0x0040;  // a denormal bf16
    operand.b[0][0] = from_float<bf16>(0x1p100f);
    EXPECT_EQ(operand.multiply(), 0.0f);
    accumulator.c[0][0] = std::bit_cast<float>(0x80000001u);
    EXPECT_EQ(std::bit_cast<std::uint32_t>(accumulator.multiply()) & 0x7fffffffu, 0u);
    product.pair(0, 0x1p-63f, 0x1p-64f, 0, 0);
    product.pair(1, 0x1p-63f, 0x1p-64f, 0, 0);  // 2^-127 twice: each sum is flushed before the next product
    EXPECT_EQ(product.multiply(), 0.0f);
    cancelled.pair(0, 0x1p-126f, 1, -0x1p-126f, 1);
    cancelled.pair(1, 0x1p-127f, 0.5f, 0, 0);
    EXPECT_EQ(cancelled.multiply(), 0.0f);
    result.pair(0, 1.5f, 0x1p-126f, -1, 0x1p-126f);
    EXPECT_EQ(result.multiply(), 0.0f);
    if (mode != nullptr) mode->~FloatMode();
  }
}

// 2^-126 − 2^-150 has the 24 bits of a normal number one exponent lower: tiny after rounding, so flushed,
// though rounding it to a denormal would give the least normal number.
TEST(EmulatedTiles, TininessIsJudgedAfterRoundingToFullPrecision) {
  Dot dot;
  dot.pair(0, 0x1p-126f, 1, 0, 0);
  dot.pair(1, -0x1p-75f, 0x1p-75f, 0, 0);
  EXPECT_EQ(dot.multiply(), 0.0f);
  Dot halfway;  // 2^-126 − 2^-151 is a tie at full precision and rounds to the even 2^-126
  halfway.pair(0, 0x1p-126f, 1, 0, 0);
  halfway.pair(1, -0x1p-75f, 0x1p-76f, 0, 0);
  EXPECT_EQ(halfway.multiply(), FLT_MIN);
}

TEST(EmulatedTiles, NonFinite) {
  Dot dot;
  dot.pair(0, INFINITY, 1, 0, 0);
  EXPECT_EQ(dot.multiply(), INFINITY);
  Dot difference;
  difference.pair(0, INFINITY, 1, -INFINITY, 1);
  EXPECT_TRUE(std::isnan(difference.multiply()));
}

TEST(EmulatedTiles, ShapesComeFromTheConfiguration) {
  TileConfig config;
  config.palette = 1;
  config.rows[kC] = 3;
  config.row_bytes[kC] = 20;  // 3 × 5 of C
  config.rows[kA] = 3;
  config.row_bytes[kA] = 8;  // 2 units
  config.rows[kB] = 2;
  config.row_bytes[kB] = 20;
  Unit::load_config(&config);

  // The last row of a tile may end at the end of memory.
  Guarded a_memory(4096), b_memory(4096), c_memory(4096);
  auto* a = a_memory.tail<bf16>(2 * kLine + 8);
  auto* b = b_memory.tail<bf16>(kLine + 20);
  auto* c = c_memory.tail<float>(2 * kLine + 20);
  for (int row = 0; row < 3; ++row)
    for (int k = 0; k < 4; ++k) a[row * 32 + k] = from_float<bf16>(static_cast<float>(row + 1));
  for (int unit = 0; unit < 2; ++unit)
    for (int i = 0; i < 10; ++i) b[unit * 32 + i] = from_float<bf16>(static_cast<float>(i / 2));
  Unit::zero<kC>();
  Unit::load<kA>(a);
  Unit::load<kB>(b);
  Unit::multiply<kC, kA, kB>();
  for (int i = 0; i < 37; ++i) c[i] = -1;
  Unit::store<kC>(c);
  for (int row = 0; row < 3; ++row)
    for (int column = 0; column < (row == 2 ? 5 : 16); ++column)
      EXPECT_EQ(c[row * 16 + column], column < 5 ? 4.0f * (row + 1) * column : -1.0f) << row << "," << column;
  Unit::release();
}

// A task of ours inside somebody else's configuration.
TEST(EmulatedTiles, BeginAndEndKeepTheCallersConfiguration) {
  TileConfig theirs, seen;
  theirs.palette = 1;
  theirs.rows[3] = 7;
  theirs.row_bytes[3] = 12;
  Unit::load_config(&theirs);
  AmxEmulated::begin();
  Unit::store_config(&seen);
  EXPECT_EQ(seen.rows[0], 16);
  AmxEmulated::end();
  Unit::store_config(&seen);
  EXPECT_EQ(std::memcmp(&seen, &theirs, sizeof seen), 0);
  Unit::release();

  AmxEmulated::begin();
  AmxEmulated::end();
  Unit::store_config(&seen);
  EXPECT_EQ(seen.palette, 0);
}

}  // namespace
}  // namespace fusion_attention::arch
