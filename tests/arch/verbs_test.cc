// Every vector verb of every arch against Scalar: bit for bit, except fused products and exp2, whose bounds
// stand beside them.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>

#include "arch/float_mode.h"
#include "arch/machines.h"
#include "arch/philox.h"
#include "support/guarded.h"
#include "support/random.h"

namespace fusion_attention::arch {
namespace {

using testing::Guarded;

constexpr float kInf = std::numeric_limits<float>::infinity();

std::uint32_t bits(float x) {
  return std::bit_cast<std::uint32_t>(x);
}

// Equal bits, or both NaN: which NaN is nobody's promise.
::testing::AssertionResult same(float got, float want) {
  if (bits(got) == bits(want) || (got != got && want != want)) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure()
         << got << " (0x" << std::hex << bits(got) << "), wanted " << want << " (0x" << bits(want) << ")";
}

struct Lanes {
  float v[kLanes];
  operator float*() { return v; }
  operator const float*() const { return v; }
};

class Verbs : public ::testing::TestWithParam<Machine> {
 protected:
  void SetUp() override {
    if (!GetParam().runs) GTEST_SKIP() << GetParam().verbs->name << " ran " << GetParam().how;
  }

  const VerbTable& verbs() const { return *GetParam().verbs; }

  // One third plain numbers, one third any bit pattern, one third corner cases.
  float any() {
    static constexpr float kCorners[] = {0.0f,     -0.0f,   1.0f,     -1.0f,    kInf,     -kInf,    NAN,
                                         FLT_MAX,  FLT_MIN, -FLT_MIN, 1e-40f,   -1e-45f,  65504.0f, 65520.0f,
                                         65519.9f, 6e-8f,   2.98e-8f, 2.99e-8f, 3.39e38f, 127.0f,   -126.0f};
    switch (random_() % 3) {
      case 0:
        return std::normal_distribution<float>()(random_);
      case 1:
        return std::bit_cast<float>(static_cast<std::uint32_t>(random_()));
      default:
        return kCorners[random_() % std::size(kCorners)];
    }
  }
  Lanes lanes() {
    Lanes r;
    for (float& x : r.v) x = any();
    return r;
  }
  void expect_same(const Lanes& got, const Lanes& want, const char* verb) {
    for (int i = 0; i < kLanes; ++i)
      EXPECT_TRUE(same(got[i], want[i])) << verb << " lane " << i << ", " << testing::seed_line();
  }
  template <class T>
  void check_memory(const VerbTable::Memory<T>& tested, const VerbTable::Memory<T>& scalar, const char* type);

  std::mt19937_64 random_{testing::seed()};
};

constexpr int kRounds = 500;

TEST_P(Verbs, Arithmetic) {
  const std::pair<const char*, VerbTable::Binary VerbTable::*> binary[] = {
      {"add", &VerbTable::add},
      {"sub", &VerbTable::sub},
      {"mul", &VerbTable::mul},
      {"max", &VerbTable::max},
      {"interleave", &VerbTable::interleave}};
  for (int round = 0; round < kRounds; ++round) {
    const Lanes a = lanes(), b = lanes();
    Lanes got, want;
    for (const auto& [name, verb] : binary) {
      (verbs().*verb)(a, b, got);
      (verbs_scalar.*verb)(a, b, want);
      expect_same(got, want, name);
    }
    verbs().set(a[0], got);
    verbs_scalar.set(a[0], want);
    expect_same(got, want, "set");
    EXPECT_TRUE(same(verbs().reduce_max(a), verbs_scalar.reduce_max(a))) << testing::seed_line();
    EXPECT_TRUE(same(verbs().reduce_add(a), verbs_scalar.reduce_add(a))) << testing::seed_line();
  }
}

// Every byte, at every place of a line that ends at a guard page.
TEST_P(Verbs, StoredIntegers) {
  Guarded memory(kLanes);
  for (int n = 0; n <= kLanes; ++n)
    for (int first = 0; first < 256; ++first) {
      Lanes got, want;
      auto* bytes = memory.tail<std::int8_t>(static_cast<std::size_t>(n));
      for (int i = 0; i < n; ++i) {
        bytes[i] = static_cast<std::int8_t>(first + 37 * i);
        want.v[i] = static_cast<float>(bytes[i]);
      }
      std::fill(want.v + n, want.v + kLanes, 0.0f);
      verbs().i8.load_n(bytes, n, got);
      expect_same(got, want, "load n int8");
      if (n == kLanes) verbs().i8.load(bytes, got), expect_same(got, want, "load int8");

      const int held = (n + 1) / 2;
      auto* pairs = memory.tail<int4_pair>(static_cast<std::size_t>(held));
      for (int i = 0; i < held; ++i) pairs[i].bits = static_cast<std::uint8_t>(first + 37 * i);
      for (int i = 0; i < n; ++i) {
        const int half = i % 2 ? pairs[i / 2].bits / 16 : pairs[i / 2].bits % 16;
        want.v[i] = static_cast<float>(half < 8 ? half : half - 16);
      }
      verbs().i4.load_n(pairs, n, got);
      expect_same(got, want, "load n int4");
      if (n == kLanes) verbs().i4.load(pairs, got), expect_same(got, want, "load int4");
    }
}

// Rounded once or twice: an arch says fma and may or may not have one.
TEST_P(Verbs, SquareRoot) {
  for (int round = 0; round < kRounds; ++round) {
    Lanes a = lanes(), root;
    for (int i = 0; i < kLanes; ++i) a[i] = std::fabs(a[i]);
    verbs().sqrt(a, root);
    for (int i = 0; i < kLanes; ++i) EXPECT_TRUE(same(root[i], std::sqrt(a[i]))) << testing::seed_line();
  }
}

TEST_P(Verbs, PhiloxIsThatOfEachCounter) {
  std::mt19937_64 random(testing::seed());
  for (int round = 0; round < kRounds; ++round) {
    std::uint64_t counter[kLanes];
    for (auto& c : counter) c = round % 2 ? random() : random() % 1000;
    const std::uint64_t high = random(), seed = random();
    const auto threshold = static_cast<std::uint32_t>(random() % (Philox::kFraction + 2));
    std::uint16_t kept[4];
    verbs().philox(counter, high, seed, threshold, kept);
    for (int i = 0; i < kLanes; ++i) {
      std::uint32_t words[4];
      Philox::words(counter[i], high, seed, words);
      for (int w = 0; w < 4; ++w)
        ASSERT_EQ(kept[w] >> i & 1, (words[w] & Philox::kFraction) >= threshold) << testing::seed_line();
    }
  }
}

// Any int32, and those whose rounding to 24 bits is a tie.
TEST_P(Verbs, FromInt32) {
  for (int round = 0; round < kRounds; ++round) {
    Lanes a, got;
    std::int32_t whole[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      const auto any = static_cast<std::int32_t>(random_());
      whole[i] = round % 2 ? any >> (any & 15) : (any | 1) << 6 & ~63;
      a[i] = std::bit_cast<float>(whole[i]);
    }
    verbs().from_int32(a, got);
    for (int i = 0; i < kLanes; ++i)
      EXPECT_TRUE(same(got[i], static_cast<float>(whole[i]))) << testing::seed_line();
  }
}

TEST_P(Verbs, Power) {
  for (int k = -126; k <= 127; ++k) {
    Lanes p, by, got;
    for (int i = 0; i < kLanes; ++i)
      p[i] = (random_() % 2 ? 1.0f : -1.0f) * (1 + static_cast<float>(random_() % 1000) / 1000),
      by[i] = static_cast<float>(k);
    verbs().power(p, by, got);
    for (int i = 0; i < kLanes; ++i) EXPECT_TRUE(same(got[i], std::ldexp(p[i], k))) << p[i] << " and " << k;
  }
}

// Every half but NaN, and what lies between integers.
TEST_P(Verbs, StoreInt8) {
  for (std::uint32_t u = 0; u < 0x10000; u += kLanes) {
    if ((u & 0x7c00u) == 0x7c00u && (u & 0x3ffu) != 0) continue;
    Lanes a;
    std::int8_t got[kLanes + 1];
    got[kLanes] = 0x55;
    for (int i = 0; i < kLanes; ++i) {
      a[i] = to_float(f16{static_cast<std::uint16_t>(u + i)});
      if (std::isnan(a[i])) a[i] = i % 2 ? 3e9f : -3e9f;
    }
    verbs().store_int8(got, a);
    for (int i = 0; i < kLanes; ++i)
      ASSERT_EQ(got[i], std::nearbyint(std::fmax(-128.0f, std::fmin(127.0f, a[i])))) << a[i];
    ASSERT_EQ(got[kLanes], 0x55);
  }
}

TEST_P(Verbs, FusedOrNot) {
  for (int round = 0; round < kRounds; ++round) {
    const Lanes a = lanes(), b = lanes(), c = lanes();
    Lanes sum, difference;
    verbs().fma(a, b, c, sum);
    verbs().fms(a, b, c, difference);
    for (int i = 0; i < kLanes; ++i) {
      volatile float product = a[i] * b[i];  // volatile: keeps the compiler from fusing
      EXPECT_TRUE(same(sum[i], std::fma(a[i], b[i], c[i])) || same(sum[i], product + c[i]))
          << testing::seed_line();
      EXPECT_TRUE(same(difference[i], std::fma(a[i], b[i], -c[i])) || same(difference[i], product - c[i]))
          << testing::seed_line();
    }
  }
}

TEST_P(Verbs, Bf16) {
  for (int round = 0; round < kRounds; ++round) {
    const Lanes a = lanes();
    Lanes got, want;
    verbs().truncate_bf16(a, got);
    verbs_scalar.truncate_bf16(a, want);
    expect_same(got, want, "truncate_bf16");
    verbs().round_bf16(a, got);
    verbs_scalar.round_bf16(a, want);
    expect_same(got, want, "round_bf16");
    Lanes number;  // or a NaN whose lower half is 0
    for (int i = 0; i < kLanes; ++i)
      number[i] = std::isnan(a[i])
                      ? std::bit_cast<float>((std::bit_cast<std::uint32_t>(a[i]) & 0xffff0000u) | 0x400000u)
                      : a[i];
    verbs().round_bf16_number(number, got);
    verbs_scalar.round_bf16(number, want);
    expect_same(got, want, "round_bf16_number");
  }
  Lanes odd = {};
  odd[0] = std::bit_cast<float>(0x7f800001u);  // a NaN whose payload truncation would lose
  odd[1] = std::bit_cast<float>(0xffffffffu);  // a NaN whose rounding would carry into the sign
  Lanes got;
  verbs().truncate_bf16(odd, got);
  EXPECT_TRUE(std::isnan(got[0]) && std::isnan(got[1]));
  verbs().round_bf16(odd, got);
  EXPECT_TRUE(std::isnan(got[0]) && std::isnan(got[1]));
  odd[0] = std::bit_cast<float>(0x7fff0000u);
  odd[1] = std::bit_cast<float>(0xffff0000u);
  verbs().round_bf16_number(odd, got);
  EXPECT_TRUE(std::isnan(got[0]) && std::isnan(got[1]));
}

// The BF16 instructions take a denormal as zero and give none back; the other arches round it.
TEST_P(Verbs, StorePairs) {
  for (int round = 0; round < kRounds; ++round) {
    const Lanes a = lanes(), b = lanes();
    bf16 got[2 * kLanes], want[2 * kLanes];
    verbs().store_pairs(got, a, b);
    verbs_scalar.store_pairs(want, a, b);
    for (int i = 0; i < 2 * kLanes; ++i) {
      const float exact = i < kLanes ? a[i] : b[i - kLanes];
      const bool flushed = std::fabs(exact) < FLT_MIN && (got[i].bits & 0x7fffu) == 0;
      EXPECT_TRUE(flushed || same(to_float(got[i]), to_float(want[i])))
          << exact << ", " << testing::seed_line();
    }
  }
}

TEST_P(Verbs, Masks) {
  for (int round = 0; round < kRounds; ++round) {
    const Lanes a = lanes(), b = lanes();
    EXPECT_EQ(verbs().greater(a, b), verbs_scalar.greater(a, b)) << testing::seed_line();
    EXPECT_EQ(verbs().unordered(a), verbs_scalar.unordered(a)) << testing::seed_line();
    const auto m = static_cast<std::uint16_t>(random_());
    Lanes got, want;
    verbs().select(m, a, b, got);
    verbs_scalar.select(m, a, b, want);
    expect_same(got, want, "select");
  }
  Guarded memory(kLanes);
  for (int n = 0; n <= kLanes; ++n)
    for (int round = 0; round < 20; ++round) {
      auto* p = memory.tail<std::uint8_t>(n);
      for (int i = 0; i < n; ++i) p[i] = random_() % 2 != 0 ? static_cast<std::uint8_t>(random_()) : 0;
      EXPECT_EQ(verbs().bytes(p, n), verbs_scalar.bytes(p, n)) << n << " bytes, " << testing::seed_line();
    }
}

// Of whole numbers, whose sums are exact in any order.
TEST_P(Verbs, SumsOfSixteen) {
  float square[kLanes * kLanes], got[kLanes];
  for (float& x : square) x = static_cast<float>(random_() % 20001) - 10000;
  verbs().sums(square, got);
  for (int i = 0; i < kLanes; ++i)
    EXPECT_EQ(got[i], std::accumulate(square + i * kLanes, square + (i + 1) * kLanes, 0.0f)) << i;
}

TEST_P(Verbs, Transpose) {
  float square[kLanes * kLanes], original[kLanes * kLanes];
  for (float& x : square) x = std::bit_cast<float>(static_cast<std::uint32_t>(random_()));
  std::memcpy(original, square, sizeof square);
  verbs().transpose(square);
  for (int i = 0; i < kLanes; ++i)
    for (int j = 0; j < kLanes; ++j)
      EXPECT_EQ(bits(square[i * kLanes + j]), bits(original[j * kLanes + i])) << i << "," << j;
}

// Loads and stores of n lanes touch n elements: the others are behind a guard page, or keep their value.
template <class T>
void Verbs::check_memory(const VerbTable::Memory<T>& tested, const VerbTable::Memory<T>& scalar,
                         const char* type) {
  SCOPED_TRACE(type);
  Guarded memory(kLanes * sizeof(T));
  for (int n = 0; n <= kLanes; ++n)
    for (int round = 0; round < 40; ++round) {
      Lanes a = lanes(), got, want;
      T* p = memory.tail<T>(n * sizeof(T));
      for (int i = 0; i < n; ++i) p[i] = from_float<T>(a[i]);
      tested.load_n(p, n, got);
      scalar.load_n(p, n, want);
      expect_same(got, want, "load n");

      T mine[kLanes + 1], theirs[kLanes + 1];
      std::memset(static_cast<void*>(mine), 0x5a, sizeof mine);
      std::memset(static_cast<void*>(theirs), 0x5a, sizeof theirs);
      tested.store_n(p, a, n);
      tested.store_n(mine, a, n);
      scalar.store_n(theirs, a, n);
      for (int i = 0; i <= kLanes; ++i)
        EXPECT_TRUE(same(to_float(mine[i]), to_float(theirs[i])))
            << "store n " << a[i] << ", " << testing::seed_line();
      if (n < kLanes) continue;
      tested.load(p, got);
      scalar.load(p, want);
      expect_same(got, want, "load");
      tested.store(mine, a);
      scalar.store(theirs, a);
      for (int i = 0; i < kLanes; ++i)
        EXPECT_TRUE(same(to_float(mine[i]), to_float(theirs[i])))
            << "store " << a[i] << ", " << testing::seed_line();
    }
}

TEST_P(Verbs, LoadsAndStores) {
  check_memory<float>(verbs().f32, verbs_scalar.f32, "float");
  check_memory<bf16>(verbs().b16, verbs_scalar.b16, "bf16");
  check_memory<f16>(verbs().h16, verbs_scalar.h16, "fp16");
}

// Every 16-bit pattern on the way in; and, on the way out, its neighbours on both sides of each tie.
TEST_P(Verbs, EveryHalf) {
  for (std::uint32_t u = 0; u < 0x10000; u += kLanes) {
    f16 h[kLanes];
    Lanes wide, tie;
    for (int i = 0; i < kLanes; ++i) h[i].bits = static_cast<std::uint16_t>(u + i);
    verbs().h16.load(h, wide);
    for (int i = 0; i < kLanes; ++i) ASSERT_TRUE(same(wide[i], to_float(h[i]))) << u + i;
    for (int step = -1; step <= 1; ++step) {
      for (int i = 0; i < kLanes; ++i) {
        const float next = to_float(f16{static_cast<std::uint16_t>(u + i + 1)});
        tie[i] = std::bit_cast<float>(bits((wide[i] + next) / 2) + step);
      }
      verbs().h16.store(h, tie);
      for (int i = 0; i < kLanes; ++i)
        ASSERT_TRUE(same(to_float(h[i]), to_float(from_float<f16>(tie[i])))) << tie[i];
    }
  }
}

// Rounding in place: every half stays, its neighbourhood rounds as the conversions do, and any other float
// too.
TEST_P(Verbs, RoundFp16) {
  const FloatMode flush;
  for (std::uint32_t u = 0; u < 0x10000; u += kLanes) {
    Lanes half, near, got;
    for (int i = 0; i < kLanes; ++i) half[i] = to_float(f16{static_cast<std::uint16_t>(u + i)});
    verbs().round_fp16(half, got);
    expect_same(got, half, "round_fp16 of a half");
    for (int step = -1; step <= 1; ++step) {
      for (int i = 0; i < kLanes; ++i) {
        const float next = to_float(f16{static_cast<std::uint16_t>(u + i + 1)});
        near[i] = std::bit_cast<float>(bits((half[i] + next) / 2) + step);
      }
      verbs().round_fp16(near, got);
      for (int i = 0; i < kLanes; ++i)
        ASSERT_TRUE(same(got[i], to_float(from_float<f16>(near[i])))) << near[i];
    }
  }
  for (int round = 0; round < kRounds; ++round) {
    const Lanes a = lanes();
    Lanes got;
    verbs().round_fp16(a, got);
    for (int i = 0; i < kLanes; ++i)
      EXPECT_TRUE(same(got[i], to_float(from_float<f16>(a[i])))) << a[i] << ", " << testing::seed_line();
  }
}

// Made of verbs, and the same in every arch: correctly rounded at every half ≤ 0 and at −∞.
TEST_P(Verbs, ExpHalf) {
  const FloatMode flush;
  int nonzero = 0;
  for (std::uint32_t u = 0x8000; u <= 0xfc00; u += kLanes) {
    Lanes d, got;
    for (std::uint32_t i = 0; i < kLanes; ++i)
      d[i] = to_float(f16{static_cast<std::uint16_t>(u + i <= 0xfc00 ? u + i : 0)});
    verbs().exp_half(d, got);
    for (int i = 0; i < kLanes; ++i) {
      const double exact = std::exp(double{d[i]}),
                   ulp = std::ldexp(1.0, std::max(exact > 0 ? std::ilogb(exact) : -14, -14) - 10);
      ASSERT_EQ(got[i], std::nearbyint(exact / ulp) * ulp) << d[i];
      nonzero += got[i] != 0;
    }
  }
  EXPECT_GT(nonzero, 19000);
}

// The polynomial's relative error (minimax, as printed in the design notes) plus the rounding of Degree
// multiply-adds with factors below 1 and of the last product.
TEST_P(Verbs, Exp2) {
  const struct {
    VerbTable::Unary verb;
    double bound;
  } cases[] = {{verbs().exp2_3, 7.6e-5 + 3 * 0x1p-24}, {verbs().exp2_5, 1.5e-7 + 3 * 0x1p-24}};
  for (const auto& [verb, bound] : cases) {
    double worst = 0;
    for (int i = 0; i < 1 << 20; i += kLanes) {
      Lanes x, y;
      for (int j = 0; j < kLanes; ++j) x[j] = static_cast<float>(127.0 - 253.0 * (i + j) / (1 << 20));
      verb(x, y);
      for (int j = 0; j < kLanes; ++j) worst = std::max(worst, std::fabs(y[j] / std::exp2(double{x[j]}) - 1));
    }
    EXPECT_LE(worst, bound);
    EXPECT_GE(worst, bound / 4);  // the bound is about this polynomial

    const FloatMode flush;
    const Lanes edge = {127.0f, 0.0f,     1.0f,    -1.0f, -125.0f, -126.5f, -127.0f, -127.5f,
                        -150.f, -FLT_MAX, -1000.f, -kInf, NAN,     -NAN,    -0.0f,   -1e-30f};
    Lanes y;
    verb(edge, y);
    for (int j : {0, 1, 2, 3, 4, 14, 15}) EXPECT_NEAR(y[j] / std::exp2(double{edge[j]}), 1, bound) << edge[j];
    for (int j : {5, 6, 7, 8, 9, 10, 11}) EXPECT_EQ(bits(y[j]), 0u) << edge[j];
    for (int j : {12, 13}) EXPECT_TRUE(std::isnan(y[j]));
  }
}

INSTANTIATE_TEST_SUITE_P(Arch, Verbs, ::testing::ValuesIn(machines()),
                         [](const auto& info) { return std::string(info.param.verbs->name); });

// Scalar itself against the mathematics, so that the definition is not merely compared with itself.
INSTANTIATE_TEST_SUITE_P(Definition, Verbs, ::testing::Values(Machine{&verbs_scalar, "natively", true}),
                         [](const auto& info) { return std::string(info.param.verbs->name); });

}  // namespace
}  // namespace fusion_attention::arch
