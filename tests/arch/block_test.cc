// The block verb of every arch against double precision, for every format and every shape it promises.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "arch/machines.h"
#include "support/guarded.h"
#include "support/random.h"

namespace fusion_attention::arch {
namespace {

using testing::Guarded;

constexpr int kMostUnits = 40, kMostGroups = (kMostUnits + kGroupUnits - 1) / kGroupUnits;
constexpr int kPlanes[kBlockFormats] = {1, 1, 2, 3}, kElements[kBlockFormats] = {1, 2, 2, 2};
constexpr int kOrder[kBlockFormats] = {0, 0, 2, 2};  // planes i, j meet when i + j is at most this
constexpr const char* kFormatNames[kBlockFormats] = {"fp32", "bf16", "two planes", "three planes"};
constexpr double kUnit = 0x1p-24;  // half an ulp of 1, the rounding of one operation

// Element (row or column r, depth k) of A or B, where its format puts it.
std::size_t a_at(int row, int k, int elements) {
  const int unit = k / elements;
  return unit / kGroupUnits * kGroupBytes + row * kLine + unit % kGroupUnits * 4 +
         k % elements * (4 / elements);
}
std::size_t b_at(int column, int k, int elements) {
  const int unit = k / elements;
  return unit / kGroupUnits * kGroupBytes + column / kLanes * (kGroupBytes / 2) + unit % kGroupUnits * kLine +
         column % kLanes * 4 + k % elements * (4 / elements);
}

// A problem whose operands end at a guard page, with what it should give and the size of its terms.
class Problem {
 public:
  Problem(BlockFormat format, int units, bool accumulate, std::mt19937_64& random)
      : format_(format),
        units_(units),
        groups_((units + kGroupUnits - 1) / kGroupUnits),
        a_(kPlanes[format] * groups_ * kGroupBytes),
        b_(kPlanes[format] * groups_ * kGroupBytes),
        start_(kBlockFloats, 0.0f) {
    std::normal_distribution<float> normal;
    if (accumulate)
      for (float& x : start_) x = normal(random);
    std::vector<double> a[3], b[3];
    for (int plane = 0; plane < kPlanes[format]; ++plane) {
      a[plane] = fill(a_.tail(a_bytes()) + plane * groups_ * kGroupBytes, a_at, random);
      b[plane] = fill(b_.tail(a_bytes()) + plane * groups_ * kGroupBytes, b_at, random);
    }
    want_.assign(start_.begin(), start_.end());
    size_.assign(kBlockFloats, 0.0);
    std::transform(start_.begin(), start_.end(), size_.begin(), [](float x) { return std::fabs(double{x}); });
    for (int i = 0; i < kPlanes[format]; ++i)
      for (int j = 0; j < kPlanes[format] && i + j <= kOrder[format]; ++j) add_product(a[i], b[j]);
  }

  Operands operands(int rows) {
    const std::size_t plane = groups_ * kGroupBytes;
    return {a_.tail(a_bytes()), b_.tail(a_bytes()), plane, plane, units_, rows};
  }
  const std::vector<float>& start() const { return start_; }

  // Terms and the start value are added in some order, with one rounding per addition and perhaps one per
  // product; the depth may be rounded up to a group, which only adds zeros.
  double bound(int at) const {
    const int pairs = kPlanes[format_] == 2 ? 4 : kPlanes[format_] * (kPlanes[format_] + 1) / 2;
    return 1.01 * kUnit * (pairs * depth() + 2.0 * pairs * groups_ + 2) * size_[at];
  }
  double want(int at) const { return want_[at]; }
  int depth() const { return units_ * kElements[format_]; }

 private:
  std::size_t a_bytes() const { return kPlanes[format_] * groups_ * kGroupBytes; }

  std::vector<double> fill(std::byte* p, std::size_t (*at)(int, int, int), std::mt19937_64& random) {
    std::normal_distribution<float> normal;
    std::memset(p, 0, groups_ * kGroupBytes);
    std::vector<double> values(kBlock * depth());
    for (int line = 0; line < kBlock; ++line)
      for (int k = 0; k < depth(); ++k) {
        const float x = normal(random);
        const bf16 rounded = from_float<bf16>(x);
        if (format_ == kFp32)
          std::memcpy(p + at(line, k, 1), &x, 4);
        else
          std::memcpy(p + at(line, k, 2), &rounded, 2);
        values[line * depth() + k] = format_ == kFp32 ? x : to_float(rounded);
      }
    return values;
  }

  void add_product(const std::vector<double>& a, const std::vector<double>& b) {
    for (int row = 0; row < kBlock; ++row)
      for (int column = 0; column < kBlock; ++column) {
        const int at = c_offset(row, column / kLanes) + column % kLanes;
        for (int k = 0; k < depth(); ++k) {
          const double term = a[row * depth() + k] * b[column * depth() + k];
          want_[at] += term;
          size_[at] += std::fabs(term);
        }
      }
  }

  BlockFormat format_;
  int units_;
  std::size_t groups_;
  Guarded a_, b_;
  std::vector<float> start_;
  std::vector<double> want_, size_;
};

class Block : public ::testing::TestWithParam<Machine> {
 protected:
  void SetUp() override {
    if (!GetParam().runs) GTEST_SKIP() << GetParam().verbs->name << " ran " << GetParam().how;
    GetParam().verbs->begin();
    begun_ = true;
  }
  void TearDown() override {
    if (begun_) GetParam().verbs->end();
  }
  const VerbTable& verbs() const { return *GetParam().verbs; }

  bool begun_ = false;
  std::mt19937_64 random_{testing::seed()};
};

void check(const VerbTable& verbs, BlockFormat format, Problem& problem, bool accumulate, int columns,
           int rows, Guarded& memory) {
  constexpr float kUntouched = -77.0f;
  const VerbTable::Block block = verbs.block[format][accumulate][columns - 1];
  float* c = memory.tail<float>(kBlockFloats * sizeof(float));
  for (bool hooked : {false, true}) {
    std::copy(problem.start().begin(), problem.start().end(), c);
    if (columns == 1)
      for (int row = 0; row < kBlock; ++row) std::fill_n(c + c_offset(row, 1), kLanes, kUntouched);
    int calls[kBlock + 1] = {};
    block(problem.operands(rows), c, hooked ? calls : nullptr);

    if (hooked) {
      ASSERT_EQ(calls[kBlock], kBlock) << "calls of the hook";
      for (int row = 0; row < kBlock; ++row) ASSERT_EQ(calls[row], row);
    }
    for (int row = 0; row < rows; ++row)
      for (int i = 0; i < columns * kLanes; ++i) {
        const int at = c_offset(row, i / kLanes) + i % kLanes;
        ASSERT_LE(std::fabs(c[at] - problem.want(at)), problem.bound(at)) << "row " << row << " column " << i;
      }
    for (int row = 0; columns == 1 && row < kBlock; ++row) {
      ASSERT_EQ(c[c_offset(row, 1)], kUntouched) << "the other half of C";
    }
  }
}

TEST_P(Block, EveryShape) {
  const bool slow =
      std::strcmp(verbs().name, "amx_emulated") == 0 || std::strcmp(verbs().name, "scalar") == 0;
  std::vector<int> rows = {1, 7, 8, 15, 16, 17, 24, 31, 32};
  if (!slow) {
    rows.resize(kBlock);
    std::iota(rows.begin(), rows.end(), 1);
  }
  Guarded memory(kBlockFloats * sizeof(float));
  for (int format = 0; format < kBlockFormats; ++format) {
    if (verbs().block[format][0][0] == nullptr) continue;
    for (int units = 1; units <= kMostUnits; ++units)
      for (bool accumulate : {false, true}) {
        Problem problem(static_cast<BlockFormat>(format), units, accumulate, random_);
        for (int columns : {1, 2})
          for (int row_count : rows) {
            SCOPED_TRACE(::testing::Message()
                         << verbs().name << " " << kFormatNames[format] << " units " << units << " rows "
                         << row_count << " columns " << columns << " accumulate " << accumulate << ", "
                         << testing::seed_line());
            check(verbs(), static_cast<BlockFormat>(format), problem, accumulate, columns, row_count, memory);
            if (HasFatalFailure()) return;
          }
      }
  }
}

// VDPBF16PS adds the odd product of a pair first, each step rounded: what Scalar does, in the same order.
TEST(BlockBf16, EqualsTheDefinitionBitForBit) {
  const VerbTable* tested = find("avx512_bf16");
  if (tested == nullptr) GTEST_SKIP() << "avx512_bf16 does not run here";
  std::mt19937_64 random(testing::seed());
  for (int units = 1; units <= kMostUnits; ++units) {
    Problem problem(kPlanes1, units, true, random);
    std::vector<float> got = problem.start(), want = got;
    tested->block[kPlanes1][1][1](problem.operands(kBlock), got.data(), nullptr);
    verbs_scalar.block[kPlanes1][1][1](problem.operands(kBlock), want.data(), nullptr);
    ASSERT_EQ(std::memcmp(got.data(), want.data(), got.size() * sizeof(float)), 0)
        << "units " << units << ", " << testing::seed_line();
  }
}

// Any bit pattern, so that NaN, infinities and denormals are among them.
TEST(BlockAmx, RealUnitEqualsTheEmulatedBitForBit) {
  const VerbTable *real = find("amx"), *emulated = find("amx_emulated");
  if (real == nullptr) GTEST_SKIP() << "amx does not run here";
  std::mt19937_64 random(testing::seed());
  std::vector<std::byte> a(3 * kMostGroups * kGroupBytes), b(a.size());
  for (int round = 0; round < 300; ++round) {
    const int units = 1 + static_cast<int>(random() % kMostUnits),
              planes = 1 + static_cast<int>(random() % 3);
    const std::uint16_t exponents = round % 2 != 0 ? 0xffff : 0x0fff;  // all of them, or those near denormals
    for (auto* operand : {&a, &b})
      for (std::size_t i = 0; i < operand->size(); i += 2) {
        const auto x = static_cast<std::uint16_t>(random() & (exponents | 0x8000));
        std::memcpy(operand->data() + i, &x, 2);
      }
    const std::size_t plane = kMostGroups * kGroupBytes;
    const Operands o{a.data(), b.data(), plane, plane, units};
    float got[kBlockFloats] = {}, want[kBlockFloats] = {};
    for (const auto& [verbs, c] : {std::pair{real, got}, std::pair{emulated, want}}) {
      verbs->begin();
      verbs->block[planes][1][1](o, c, nullptr);
      verbs->end();
    }
    for (std::size_t i = 0; i < kBlockFloats; ++i)
      ASSERT_TRUE(std::memcmp(&got[i], &want[i], 4) == 0 || (got[i] != got[i] && want[i] != want[i]))
          << got[i] << " and " << want[i] << ", round " << round << ", " << testing::seed_line();
  }
}

INSTANTIATE_TEST_SUITE_P(Arch, Block, ::testing::ValuesIn(machines()),
                         [](const auto& info) { return std::string(info.param.verbs->name); });
INSTANTIATE_TEST_SUITE_P(Definition, Block, ::testing::Values(Machine{&verbs_scalar, "natively", true}),
                         [](const auto& info) { return std::string(info.param.verbs->name); });

}  // namespace
}  // namespace fusion_attention::arch
