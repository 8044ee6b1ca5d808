// Bias tiles in both orientations against one pair at a time, and the gradient's way back.
#include "kernels/bias.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "arch/scalar.h"

namespace fusion_attention::kernels {
namespace {

using arch::Scalar;

// 2 heads, 70 rows and keys.
class BiasTiles : public ::testing::Test {
 protected:
  BiasTiles() : numbers_(2 * 70 * 70) {
    std::mt19937 random(3);
    std::normal_distribution<float> normal;
    for (float& x : numbers_) x = normal(random);
    shape_.rows = shape_.keys = 70;
    shape_.scale = 0.25f;
    shape_.bias = {.kind = BiasKind::dense, .data = numbers_.data(), .head = 70 * 70, .row = 70};
  }

  double bias(std::int64_t n, std::int64_t i, std::int64_t j) const {
    const BiasPlane& b = shape_.bias;
    const auto number = [&](std::int64_t row, std::int64_t key) {
      return static_cast<double>(numbers_[static_cast<std::size_t>(n * b.head + row * b.row + key)]);
    };
    const double distance = std::fabs(static_cast<double>(j - i + b.shift));
    if (b.kind == BiasKind::distance) return -number(0, 0) * distance;
    if (b.kind == BiasKind::root_distance) return -number(0, 0) * std::sqrt(distance);
    if (b.last_rows == 0) return number(i, j) * (b.before_scale ? 0.25 : 1);
    if (i >= 70 - b.last_rows) return number(i - (70 - b.last_rows), j);
    const std::int64_t m = i % b.last_rows;  // training-ops §3.2
    return number(m, 70 - (i - j) - (b.last_rows - m));
  }

  void expect_tiles() {
    for (std::int64_t row : {0, 32, 64})
      for (std::int64_t key : {0, 32, 64}) {
        const TilePlace at{1, row, key, static_cast<int>(std::min<std::int64_t>(32, 70 - row)),
                           static_cast<int>(std::min<std::int64_t>(32, 70 - key))};
        float block[arch::kBlockFloats], turned[arch::kBlockFloats];
        const BiasTile<Scalar, float> tile(shape_, at);
        tile.fill(block), tile.fill_transposed(turned);
        for (int r = 0; r < at.rows; ++r)
          for (int j = 0; j < at.keys; ++j) {
            if (shape_.bias.last_rows && key + j > row + r) continue;  // hidden, and past the end
            const double want = bias(1, row + r, key + j) * 1.4426950408889634;
            EXPECT_NEAR(block[arch::c_offset(r, j / kLanes) + j % kLanes], want, 1e-4);
            EXPECT_EQ(turned[arch::c_offset(j, r / kLanes) + r % kLanes],
                      block[arch::c_offset(r, j / kLanes) + j % kLanes]);
          }
      }
  }

  std::vector<float> numbers_;
  Shape shape_;
};

TEST_F(BiasTiles, OfADenseBias) {
  expect_tiles();
  shape_.bias.before_scale = true;
  expect_tiles();
  shape_.bias.before_scale = false, shape_.bias.row = 0;
  expect_tiles();
}

TEST_F(BiasTiles, OfTheLastRows) {
  for (const std::int64_t last : {13, 32, 40, 70}) {
    shape_.bias.last_rows = last;
    expect_tiles();
  }
}

TEST_F(BiasTiles, OfSlopes) {
  for (const BiasKind kind : {BiasKind::distance, BiasKind::root_distance})
    for (const std::int64_t shift : {0, 5, -40}) {
      shape_.bias.kind = kind, shape_.bias.shift = shift, shape_.bias.row = 0;
      expect_tiles();
    }
}

// Every pair's dS once, through whichever tile it came.
TEST_F(BiasTiles, AddTheirGradient) {
  std::vector<float> gradient(numbers_.size());
  shape_.bias.gradient = gradient.data(), shape_.bias.before_scale = true;
  float ds[arch::kBlockFloats];
  for (std::size_t i = 0; i < arch::kBlockFloats; ++i) ds[i] = static_cast<float>(i);
  BiasTile<Scalar, float>(shape_, {1, 64, 32, 6, 32}).add_gradient(ds);
  for (int i = 0; i < 70; ++i)
    for (int j = 0; j < 70; ++j) {
      const bool inside = i >= 64 && j >= 32 && j < 64;
      const float want = inside ? 0.25f * ds[arch::c_offset(j - 32, 0) + (i - 64)] : 0;
      EXPECT_EQ(gradient[static_cast<std::size_t>(4900 + i * 70 + j)], want) << i << " " << j;
    }
}

}  // namespace
}  // namespace fusion_attention::kernels
