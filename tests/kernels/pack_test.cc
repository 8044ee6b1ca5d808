// Packing into the A and B formats, element by element, against the drawing in arch/tile.h. Sources end at a
// guard page, destinations start full of NaN.
#include "kernels/pack.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "arch/scalar.h"
#include "support/guarded.h"
#include "support/random.h"

namespace fusion_attention::testing {
namespace {

using arch::Bf16, arch::Bf16Planes, arch::Fp32, arch::Scalar;
using kernels::Rows;

// rows × channels of T, rows `channels + 1` elements apart, the last element before a guard page.
template <class T>
class Source {
 public:
  Source(int rows, int channels, std::uint64_t seed)
      : stride_((channels + 1) * static_cast<std::int64_t>(sizeof(T))),
        bytes_(static_cast<std::size_t>((rows - 1) * stride_) +
               static_cast<std::size_t>(channels) * sizeof(T)),
        memory_(bytes_) {
    std::mt19937_64 random(seed);
    std::normal_distribution<float> normal;
    for (int i = 0; i < rows; ++i)
      for (int c = 0; c < channels; ++c) set(i, c, normal(random));
  }
  void set(int i, int c, float x) {
    const T value = from_float<T>(x);
    std::memcpy(
        memory_.template tail<std::byte>(bytes_) + i * stride_ + c * static_cast<std::int64_t>(sizeof(T)),
        &value, sizeof value);
  }
  float get(int i, int c) { return to_float(rows()[i][c]); }
  Rows<T> rows() { return {memory_.template tail<std::byte>(bytes_), stride_}; }

 private:
  std::int64_t stride_;
  std::size_t bytes_;
  Guarded memory_;
};

// Element (line, unit, part) of a packed operand: the sum of its planes. Lines are 64 bytes.
template <class Format>
float packed(const std::vector<std::byte>& p, std::size_t plane, std::size_t line, int unit, int part) {
  float sum = 0;
  for (int i = 0; i < Format::kPlanes; ++i) {
    const std::byte* at = p.data() + static_cast<std::size_t>(i) * plane + line * arch::kLine + unit * 4;
    if constexpr (Format::kUnitElements == 1) {
      float x;
      std::memcpy(&x, at, 4);
      sum += x;
    } else {
      bf16 x;
      std::memcpy(&x, at + 2 * part, 2);
      sum += to_float(x);
    }
  }
  return sum;
}
// A: depth element d of row r.
template <class Format>
float from_a(const std::vector<std::byte>& p, std::size_t plane, int r, int d) {
  const int element = d % arch::kGroupElements<Format>;
  return packed<Format>(p, plane, static_cast<std::size_t>(d / arch::kGroupElements<Format> * 32 + r),
                        element / Format::kUnitElements, element % Format::kUnitElements);
}
// B: depth element d of column c.
template <class Format>
float from_b(const std::vector<std::byte>& p, std::size_t plane, int c, int d) {
  const int element = d % arch::kGroupElements<Format>;
  const int line = d / arch::kGroupElements<Format> * 32 + c / 16 * 16 + element / Format::kUnitElements;
  return packed<Format>(p, plane, static_cast<std::size_t>(line), c % 16, element % Format::kUnitElements);
}

template <class F, class E>
struct Pair {
  using Format = F;
  using T = E;
};
using Routes = ::testing::Types<Pair<Fp32, float>, Pair<Fp32, f16>, Pair<Fp32, bf16>, Pair<Bf16, bf16>,
                                Pair<Bf16Planes<2>, f16>, Pair<Bf16Planes<3>, float>>;

template <class Route>
class Pack : public ::testing::Test {
 protected:
  using Format = typename Route::Format;
  using T = typename Route::T;
  static constexpr std::array kRows{1, 15, 16, 17, 31, 32};
  static constexpr std::array kDepths{1, 2, 15, 16, 17, 31, 32, 33, 64, 65};

  static std::vector<std::byte> poisoned(std::size_t bytes) {
    return std::vector<std::byte>(bytes, std::byte{0xff});
  }
  static int padded(int depth) { return kernels::groups<Format>(depth) * arch::kGroupElements<Format>; }
  // Planes hold fp16 and bf16 exactly, fp32 to one part in 2^23.
  static void expect_held(float got, float want) { EXPECT_NEAR(got, want, std::fabs(want) * 0x1p-23f); }
};
TYPED_TEST_SUITE(Pack, Routes);

TYPED_TEST(Pack, RowsAsA) {
  using Format = typename TypeParam::Format;
  for (const int rows : this->kRows)
    for (const int depth : this->kDepths) {
      Source<typename TypeParam::T> from(rows, depth, testing::seed());
      auto out = this->poisoned(kernels::operand_bytes<Format>(depth));
      kernels::pack_a<Scalar, Format>(from.rows(), rows, depth, out.data());
      for (int r = 0; r < 32; ++r)
        for (int d = 0; d < this->padded(depth); ++d)
          this->expect_held(from_a<Format>(out, kernels::plane_bytes<Format>(depth), r, d),
                            r < rows && d < depth ? from.get(r, d) : 0.0f);
      ASSERT_FALSE(this->HasFailure()) << rows << " rows, depth " << depth << ", " << seed_line();
    }
}

TYPED_TEST(Pack, RowsOfAFromTheEndOnAreLeftAlone) {
  using Format = typename TypeParam::Format;
  Source<typename TypeParam::T> from(11, 40, testing::seed());
  auto out = this->poisoned(kernels::operand_bytes<Format>(40));
  const std::size_t plane = kernels::plane_bytes<Format>(40);
  kernels::pack_a<Scalar, Format>(from.rows(), 11, 40, out.data(), 16);
  for (int d = 0; d < this->padded(40); ++d) {
    this->expect_held(from_a<Format>(out, plane, 10, d), d < 40 ? from.get(10, d) : 0.0f);
    EXPECT_EQ((from_a<Format>(out, plane, 15, d)), 0.0f);
    EXPECT_TRUE(std::isnan(from_a<Format>(out, plane, 16, d)));
  }
}

TYPED_TEST(Pack, RowsAsBTransposed) {
  using Format = typename TypeParam::Format;
  for (const int rows : this->kRows)
    for (const int depth : this->kDepths) {
      Source<typename TypeParam::T> from(rows, depth, testing::seed());
      auto out = this->poisoned(kernels::operand_bytes<Format>(depth));
      kernels::pack_b_transposed<Scalar, Format>(from.rows(), rows, depth, out.data());
      for (int c = 0; c < 32; ++c)
        for (int d = 0; d < this->padded(depth); ++d)
          this->expect_held(from_b<Format>(out, kernels::plane_bytes<Format>(depth), c, d),
                            c < rows && d < depth ? from.get(c, d) : 0.0f);
      ASSERT_FALSE(this->HasFailure()) << rows << " rows, depth " << depth << ", " << seed_line();
    }
}

// Depth along the rows: as B it lies, as A of the transpose it is turned.
TYPED_TEST(Pack, DepthAlongTheRows) {
  using Format = typename TypeParam::Format;
  constexpr int kCapacity = 96, kChannels = 40;
  const std::size_t plane = kernels::plane_bytes<Format>(kCapacity);
  for (const int rows : {1, 2, 31, 32, 33, 65, 96})
    for (const int first : {0, 32})
      for (const int channels : {1, 8, 16, 17, 32}) {
        if (first + channels > kChannels && first + channels != 64) continue;
        const int width = std::min(channels, kChannels - first);
        Source<typename TypeParam::T> from(rows, kChannels, testing::seed());
        auto as_b = this->poisoned(static_cast<std::size_t>(Format::kPlanes) * plane), as_a = as_b;
        EXPECT_FALSE((kernels::pack_depth<Scalar, Format, false>(from.rows(), rows, first, width, kCapacity,
                                                                 as_b.data())));
        EXPECT_FALSE((kernels::pack_depth<Scalar, Format, true>(from.rows(), rows, first, width, kCapacity,
                                                                as_a.data())));
        const int columns = width > 16 ? 32 : 16;
        for (int d = 0; d < static_cast<int>(round_up(rows, 32)); ++d)
          for (int c = 0; c < 32; ++c) {
            const float want = d < rows && c < width ? from.get(d, first + c) : 0.0f;
            if (c < columns) this->expect_held(from_b<Format>(as_b, plane, c, d), want);
            this->expect_held(from_a<Format>(as_a, plane, c, d), want);
          }
        ASSERT_FALSE(this->HasFailure())
            << rows << " rows, channels " << first << " + " << width << ", " << seed_line();
      }
}

TYPED_TEST(Pack, DepthAlongTheRowsClearsAndReportsWhatIsNotFinite) {
  using Format = typename TypeParam::Format;
  for (const float bad : {NAN, INFINITY, -INFINITY})
    for (const int row : {0, 17, 32}) {
      Source<typename TypeParam::T> from(33, 20, testing::seed());
      from.set(row, 19, bad);
      const std::size_t plane = kernels::plane_bytes<Format>(64);
      auto out = this->poisoned(static_cast<std::size_t>(Format::kPlanes) * plane);
      EXPECT_TRUE((kernels::pack_depth<Scalar, Format, false>(from.rows(), 33, 0, 20, 64, out.data())));
      for (int d = 0; d < 64; ++d)
        for (int c = 0; c < 32; ++c)
          this->expect_held(from_b<Format>(out, plane, c, d),
                            d < 33 && c < 20 && !(d == row && c == 19) ? from.get(d, c) : 0.0f);
    }
}

TYPED_TEST(Pack, InfinityAndNanOfQueryAndKeySurvive) {
  using Format = typename TypeParam::Format;
  Source<typename TypeParam::T> from(3, 40, testing::seed());
  from.set(1, 33, INFINITY);
  from.set(2, 0, NAN);
  auto out = this->poisoned(kernels::operand_bytes<Format>(40));
  const std::size_t plane = kernels::plane_bytes<Format>(40);
  kernels::pack_a<Scalar, Format>(from.rows(), 3, 40, out.data());
  EXPECT_EQ((from_a<Format>(out, plane, 1, 33)), INFINITY);
  EXPECT_TRUE(std::isnan(from_a<Format>(out, plane, 2, 0)));
  kernels::pack_b_transposed<Scalar, Format>(from.rows(), 3, 40, out.data());
  EXPECT_EQ((from_b<Format>(out, plane, 1, 33)), INFINITY);
  EXPECT_TRUE(std::isnan(from_b<Format>(out, plane, 2, 0)));
}

}  // namespace
}  // namespace fusion_attention::testing
