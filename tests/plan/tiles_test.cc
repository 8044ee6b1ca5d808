#include "plan/tiles.h"

#include <gtest/gtest.h>

#include <random>

#include "support/random.h"

namespace fusion_attention::plan {
namespace {

// Tile by tile, pair by pair.
TileCounts counted(const Sequence& s) {
  TileCounts counts;
  for (std::int64_t row = 0; row < s.rows; row += 32)
    for (std::int64_t key = 0; key < s.keys; key += 32) {
      std::int64_t pairs = 0, visible = 0;
      for (std::int64_t i = row; i < std::min(row + 32, s.rows); ++i)
        for (std::int64_t j = key; j < std::min(key + 32, s.keys); ++j) {
          const Interval sees = s.band.row(s.row0 + i, s.key0 + s.keys);
          ++pairs;
          visible += s.key0 + j >= sees.begin && s.key0 + j < sees.end;
        }
      ++(visible == 0 ? counts.none : visible == pairs ? counts.full : counts.part);
    }
  return counts;
}

// Bands whose rows see one another's neighbours: where a row of a tile's block sees nothing between rows that
// see something, the tile is called part, which is safe.
TEST(Tiles, AreCountedAsPairByPair) {
  std::mt19937_64 random(testing::seed());
  const auto between = [&](std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(random);
  };
  for (int i = 0; i < 2000; ++i) {
    Sequence s{.rows = between(0, 200),
               .keys = between(0, 200),
               .row0 = between(0, 50),
               .key0 = between(0, 50),
               .band = {}};
    const std::int64_t lo = between(-220, 100);
    switch (i % 5) {
      case 0:
        break;
      case 1:
        s.band = {.hi = between(-100, 220)};
        break;
      case 2:
        s.band = {.lo = lo, .hi = lo + between(0, 150)};
        break;
      case 3:
        s.band = {.hi = between(-100, 100), .prefix = between(0, 200)};
        break;
      case 4:
        s.band = {.lo = -32 * between(0, 4), .hi = 32 * between(1, 3) - 1, .prefix = 0, .block = 32};
        break;
    }
    TileCounts sum;
    std::int64_t visible = 0;
    for (std::int64_t row = 0; row < s.rows; row += 32) {
      const TileCounts counts = tiles_of_rows(s, row);
      sum.none += counts.none, sum.part += counts.part, sum.full += counts.full;
      visible += counts.part + counts.full;
    }
    const TileCounts wanted = counted(s);
    const std::string which = testing::seed_line() + ", case " + std::to_string(i);
    EXPECT_EQ(sum.full, wanted.full) << which;
    EXPECT_EQ(sum.part, wanted.part) << which;
    EXPECT_EQ(sum.none, wanted.none) << which;
    EXPECT_EQ(visible_tiles(s, 0, s.rows), visible) << which;
    if (HasFailure()) return;
  }
}

TEST(Tiles, AreCountedByTheBandAlone) {
  Problem p = dense_problem(Pass::forward, Dtype::float32, 2, 4, 4, 100, 70, 16, 16, 1, {.hi = 31});
  const TileCounts without = count_tiles(p);
  static const std::uint8_t kByte = 0;
  p.overlay.data = &kByte;
  const TileCounts with = count_tiles(p);
  EXPECT_GT(without.full, 0);
  EXPECT_EQ(with.full, without.full);
  EXPECT_EQ(with.part, without.part);
  EXPECT_EQ(with.none, without.none);
}

}  // namespace
}  // namespace fusion_attention::plan
