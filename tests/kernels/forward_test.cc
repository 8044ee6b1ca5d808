// The forward and decode rows of kernels.def, called directly: every row that executes on this machine
// against fp64 loops, at the edges of its blocks.
#include <gtest/gtest.h>

#include "support/kernel_case.h"
#include "support/random.h"

namespace fusion_attention::testing {
namespace {

using kernels::Algorithm, kernels::Blocking, kernels::Row, kernels::Shape;

constexpr Blocking kTiny{.rows = 32, .keys = 64, .round_trip = 32, .splits = 2};
constexpr Blocking kMiddle{.rows = 64, .keys = 256, .round_trip = 128, .splits = 1};

class ForwardKernel : public ::testing::TestWithParam<Row> {
 protected:
  bool decodes() const { return GetParam().algorithm == Algorithm::decode; }
  // A decode row takes 16 query rows in all.
  std::int64_t rows(std::int64_t wanted, std::int64_t group = 1) const {
    return decodes() ? std::min<std::int64_t>(wanted, 16 / group) : wanted;
  }
  Shape shape(std::int64_t rows, std::int64_t keys, std::int64_t depth, std::int64_t value_depth) const {
    Shape s;
    s.rows = this->rows(rows), s.keys = keys, s.depth = depth, s.value_depth = value_depth;
    s.scale = 1 / std::sqrt(static_cast<float>(depth));
    return s;
  }
};

TEST_P(ForwardKernel, RandomProblems) {
  for (std::uint64_t i = 0; i < 60; ++i) {
    const std::uint64_t seed = i % 2 ? testing::seed() + i : i;
    std::mt19937_64 random(seed);
    const auto pick = [&](std::initializer_list<std::int64_t> all) {
      return all.begin()[random() % all.size()];
    };
    const std::int64_t keys = pick({1, 2, 31, 32, 33, 63, 64, 65, 96, 127, 129, 200, 300});
    Shape s = shape(1, keys, pick({1, 2, 3, 15, 16, 17, 31, 32, 33, 40, 64, 72, 128}),
                    pick({1, 5, 15, 16, 17, 32, 33, 47, 48, 64, 80, 128}));
    s.group = pick({1, 1, 2, 3});
    s.rows = rows(pick({1, 2, 7, 8, 9, 31, 32, 33, 63, 64, 65}), s.group);
    if (random() % 4 == 0) s.scale = static_cast<float>(pick({-1, 0, 1})) * 0.3f;
    if (random() % 4 == 0) s.row0 = pick({1, 32, 45}), s.key0 = pick({0, 7, 64});
    const std::int64_t corner = s.key0 + s.keys - s.row0 - s.rows;
    switch (random() % 6) {
      case 0:
        s.band = {.hi = corner};
        break;
      case 1:
        s.band = {.lo = corner - pick({0, 20, 70}), .hi = corner + pick({-40, 0, 33})};
        break;
      case 2:
        s.band = {.hi = 0};
        break;
      case 3:
        s.band = {.hi = corner - 30, .prefix = pick({0, 10, 64})};
        break;
      default:
        break;
    }
    KernelCase c(GetParam(), s, random() % 2 ? kTiny : kMiddle, pick({1, 2}), seed);
    if (random() % 3 == 0) {
      const std::uint64_t density = random() % 5;  // 0: all hidden
      std::vector<bool> bits(static_cast<std::size_t>(4 * 2 * 65 * 300));
      for (std::size_t b = 0; b < bits.size(); ++b) bits[b] = random() % 4 >= density;
      c.hide([&](std::int64_t n, std::int64_t r, std::int64_t j) {
        return bits[static_cast<std::size_t>((n * s.rows + r) * s.keys + j) % bits.size()];
      });
    }
    c.run(static_cast<int>(pick({1, 1, 2, 5})));
    c.expect_right();
    ASSERT_FALSE(HasFailure()) << seed_line() << ", problem " << i << ": " << c.text();
  }
}

// Scores rise by more than the headroom at every step, then at every key: each step moves the reference.
TEST_P(ForwardKernel, GrowingScoresMoveTheReferenceAtEveryStep) {
  for (const float rise : {0.1f, 1.0f, 40.0f})
    for (const int splits : {1, 3}) {
      Shape s = shape(33, 200, 16, 40);
      s.scale = 1;
      KernelCase c(GetParam(), s, kTiny, 1, 1);
      for (std::int64_t i = 0; i < s.rows; ++i)
        for (std::int64_t d = 0; d < s.depth; ++d) c.q.set(0, i, d, d == 0 ? 1.0f : 0.0f);
      for (std::int64_t j = 0; j < s.keys; ++j) c.k.set(0, j, 0, rise * static_cast<float>(j) - 300.0f);
      c.run(splits);
      c.expect_right();
    }
}

TEST_P(ForwardKernel, FallingScoresNeedNoMove) {
  Shape s = shape(33, 200, 16, 40);
  KernelCase c(GetParam(), s, kTiny, 1, 1);
  for (std::int64_t j = 0; j < s.keys; ++j)
    for (std::int64_t d = 0; d < s.depth; ++d)
      c.k.set(0, j, d, c.k.get(0, j, d) * static_cast<float>(200 - j));
  c.run();
  c.expect_right();
}

TEST_P(ForwardKernel, NoKeysAtAll) {
  for (const int splits : {1, 2}) {
    KernelCase c(GetParam(), shape(33, 0, 24, 24), kTiny, 2, 1);
    c.run(splits);
    c.expect_right();
  }
}

// Bands that leave some rows, whole blocks and whole splits without a key.
TEST_P(ForwardKernel, EmptyRowsAndSplits) {
  for (const std::int64_t hi : {-300, -101, -64, -5}) {
    Shape s = shape(100, 100, 24, 24);
    s.band = {.hi = hi};
    s.row0 = decodes() ? 60 : 0;
    KernelCase c(GetParam(), s, kTiny, 1, 1);
    c.run(7);
    c.expect_right();
  }
}

TEST_P(ForwardKernel, RowsWhoseVisibleScoresAreAllMinusInfinityAreEmpty) {
  if (std::strncmp(GetParam().arch, "amx", 3) == 0 && !decodes() && GetParam().dtype != Dtype::bfloat16)
    GTEST_SKIP() << "an infinity times the zero second plane of the other factor is NaN";
  KernelCase c(GetParam(), shape(9, 70, 8, 8), kTiny, 1, 1);
  for (std::int64_t i = 0; i < c.shape().rows; ++i)
    for (std::int64_t d = 0; d < 8; ++d) c.q.set(0, i, d, 1.0f);
  for (std::int64_t j = 0; j < 70; ++j)
    for (std::int64_t d = 0; d < 8; ++d) c.k.set(0, j, d, -INFINITY);
  for (const int splits : {1, 3}) {
    c.run(splits);
    c.expect_right();
  }
  // One finite score among them is the whole row.
  for (std::int64_t d = 0; d < 8; ++d) c.k.set(0, 66, d, 0.5f);
  for (const int splits : {1, 3}) {
    c.run(splits);
    c.expect_right();
  }
}

// What is hidden may be anything: the key as a whole, or one pair of a visible key.
TEST_P(ForwardKernel, HiddenNonFiniteKeysAndValuesReachNothing) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), INFINITY, -INFINITY})
    for (const Blocking& blocking : {kTiny, kMiddle})
      for (const int splits : {1, 2}) {
        Shape s = shape(40, 90, 24, 40);
        s.group = decodes() ? 1 : 2;
        KernelCase c(GetParam(), s, blocking, 1, 3);
        // Keys 5, 40 and 89 are hidden from all rows; key 50 from even rows of head 0, where V is finite.
        c.hide([&](std::int64_t n, std::int64_t i, std::int64_t j) {
          return j == 5 || j == 40 || j == 89 || (j == 50 && n == 0 && i % 2 == 0);
        });
        for (const std::int64_t j : {5, 40, 89}) {
          for (std::int64_t d = 0; d < s.depth; d += 7) c.k.set(0, j, d, bad);
          for (std::int64_t d = 0; d < s.value_depth; d += 3) c.v.set(0, j, d, bad);
        }
        c.run(splits);
        c.expect_right();
      }
}

// Causal: each row sees one key more, of which some are not finite; rows before them stay clean.
TEST_P(ForwardKernel, VisibleNonFiniteValuesReachTheRowsThatSeeThem) {
  for (const Blocking& blocking : {kTiny, kMiddle}) {
    Shape s = shape(70, 70, 24, 40);
    s.band = {.hi = 0};
    s.row0 = decodes() ? 30 : 0;
    KernelCase c(GetParam(), s, blocking, 1, 3);
    c.v.set(0, 33, 7, INFINITY);
    c.v.set(0, 40, 39, std::numeric_limits<float>::quiet_NaN());
    c.run();
    c.expect_right();
  }
}

TEST_P(ForwardKernel, AQueryOfNanOrAnInfiniteScoreStaysInItsRow) {
  KernelCase c(GetParam(), shape(40, 70, 24, 24), kTiny, 1, 3);
  c.q.set(0, 3, 5, std::numeric_limits<float>::quiet_NaN());
  if (c.shape().rows > 35) c.q.set(0, 35, 0, INFINITY);
  c.run();
  c.expect_right();
}

// Bitwise: a row alone, in any company, in any super-block, whether its steps are full or part for others.
TEST_P(ForwardKernel, ARowDoesNotDependOnItsCompany) {
  Shape s = shape(80, 150, 40, 40);
  s.band = {.hi = s.keys - s.rows - 20};
  KernelCase together(GetParam(), s, kTiny, 1, 5), alone(GetParam(), s, kTiny, 1, 5);
  for (std::int64_t i = 0; i < s.rows; ++i)
    for (std::int64_t d = 0; d < s.depth; ++d) {
      const float x = together.q.get(0, i, d) * (1 + static_cast<float>(i % 9));
      together.q.set(0, i, d, x), alone.q.set(0, i, d, x);
    }
  together.run();
  for (std::int64_t i = 0; i < s.rows; ++i) {
    alone.run(i, i + 1);
    ASSERT_EQ(
        std::memcmp(together.o.at(0, i, 0), alone.o.at(0, i, 0),
                    static_cast<std::size_t>(s.value_depth) * (GetParam().dtype == Dtype::float32 ? 4 : 2)),
        0)
        << "row " << i;
    const auto at = static_cast<std::size_t>(together.entry(0, i));
    ASSERT_EQ(together.max[at], alone.max[at]) << "row " << i;
    ASSERT_EQ(together.sum[at], alone.sum[at]) << "row " << i;
  }
}

TEST_P(ForwardKernel, StatisticsMayBeUnwanted) {
  KernelCase c(GetParam(), shape(33, 70, 24, 24), kTiny, 1, 1);
  c.run(2);
  const std::vector<float> max = c.max, sum = c.sum;
  c.args().statistics.max = c.args().statistics.sum = nullptr;
  c.run(2);
  c.run(1);
  EXPECT_EQ(c.max, max);
  EXPECT_EQ(c.sum, sum);
}

INSTANTIATE_TEST_SUITE_P(EveryRow, ForwardKernel,
                         ::testing::ValuesIn(executable_rows({Algorithm::forward, Algorithm::decode})),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace fusion_attention::testing
