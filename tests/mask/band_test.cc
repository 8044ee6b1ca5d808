// Band::row, Band::column and their monotony against the definition, element by element.
#include <gtest/gtest.h>

#include "fusion_attention/mask.h"
#include "support/random.h"

namespace fusion_attention {
namespace {

// The definition: i rounded down to a block; i + lo … i + hi, at most the row's own i + reach, and the prefix
// while there is no lower end.
bool sees(const Band& band, std::int64_t i, std::int64_t j) {
  const std::int64_t base = i / band.block * band.block;
  return (j >= base + band.lo && j <= base + band.hi && j <= i + band.reach) || j < band.prefix;
}

Band random_band(std::mt19937_64& random) {
  const auto between = [&](int low, int high) {
    return low + static_cast<int>(random() % static_cast<unsigned>(high - low + 1));
  };
  Band band;
  if (random() % 2) band.hi = between(-20, 40);
  if (random() % 4 == 0) {
    band.prefix = between(0, 40);
  } else if (random() % 2) {
    band.lo = between(-40, 20);
  }
  if (random() % 4 == 0) band.block = between(2, 16);
  if (random() % 4 == 0) band.reach = between(-20, 20);
  return band;
}

TEST(Band, RowsAreTheDefinition) {
  std::mt19937_64 random(testing::seed());
  for (int repeat = 0; repeat < 3000; ++repeat) {
    const Band band = random_band(random);
    const std::int64_t rows = 1 + static_cast<std::int64_t>(random() % 45),
                       keys = 1 + static_cast<std::int64_t>(random() % 45);
    Interval before{};
    for (std::int64_t i = 0; i < rows; ++i) {
      const Interval row = band.row(i, keys);
      for (std::int64_t j = 0; j < keys; ++j)
        ASSERT_EQ(j >= row.begin && j < row.end, sees(band, i, j))
            << testing::seed_line() << " lo " << band.lo << " hi " << band.hi << " prefix " << band.prefix
            << " block " << band.block << " reach " << band.reach << " row " << i << " key " << j;
      ASSERT_GE(row.begin, before.begin);
      ASSERT_GE(row.end, before.end);
      before = row;
    }
  }
}

}  // namespace
}  // namespace fusion_attention
