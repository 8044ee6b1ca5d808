// The block verb on integers: exact sums, in every arch and every shape it promises.
#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "arch/cpu.h"
#include "arch/machines.h"
#include "support/guarded.h"
#include "support/random.h"

namespace fusion_attention::arch {
namespace {

using testing::Guarded;

constexpr int kMostUnits = 70;
constexpr const char* kNames[kIntegerBlocks] = {"words", "bytes", "raised bytes"};
constexpr int kElements[kIntegerBlocks] = {2, 4, 4}, kRaise[kIntegerBlocks] = {0, 0, 128};

// An int8 in the element of a format, at element k of a 4-byte unit.
void put(std::byte* unit, IntegerBlock format, int k, int value) {
  if (format == kWords) {
    const auto word = static_cast<std::int16_t>(value);
    std::memcpy(unit + 2 * k, &word, 2);
  } else {
    unit[k] = static_cast<std::byte>(value);
  }
}

// Operands against a guard page, and the sums of their products as they lie: A raised, where it is.
struct Product {
  Product(IntegerBlock format, int units, bool extreme, bool accumulate, std::mt19937_64& random)
      : units(units),
        bytes((units + kGroupUnits - 1) / kGroupUnits * kGroupBytes),
        a(bytes),
        b(bytes),
        start(kBlockFloats, 0) {
    std::memset(a.tail(bytes), 0, bytes);
    std::memset(b.tail(bytes), 0, bytes);
    const auto value = [&] { return static_cast<int>(extreme ? random() % 2 * 255 : random() % 256) - 128; };
    if (accumulate)
      for (std::int32_t& x : start) x = static_cast<std::int32_t>(random() % 2'000'001) - 1'000'000;
    want = start;
    for (int unit = 0; unit < units; ++unit) {
      const std::size_t group = unit / kGroupUnits * kGroupBytes;
      for (int k = 0; k < kElements[format]; ++k) {
        int row[kBlock], column[kBlock];
        for (int i = 0; i < kBlock; ++i) {
          row[i] = value() + kRaise[format], column[i] = value();
          put(a.tail(bytes) + group + i * kLine + unit % kGroupUnits * 4, format, k, row[i]);
          put(b.tail(bytes) + group + i / kLanes * (kGroupBytes / 2) + unit % kGroupUnits * kLine +
                  i % kLanes * 4,
              format, k, column[i]);
        }
        for (int i = 0; i < kBlock; ++i)
          for (int j = 0; j < kBlock; ++j) want[c_offset(i, j / kLanes) + j % kLanes] += row[i] * column[j];
      }
    }
  }
  Operands operands(int rows) { return {a.tail(bytes), b.tail(bytes), 0, 0, units, rows}; }

  int units;
  std::size_t bytes;
  Guarded a, b;
  std::vector<std::int32_t> start, want;
};

class IntegerBlocks : public ::testing::TestWithParam<Machine> {};

TEST_P(IntegerBlocks, AreExact) {
  const VerbTable& verbs = *GetParam().verbs;
  if (!GetParam().runs) GTEST_SKIP() << verbs.name << " ran " << GetParam().how;
  std::mt19937_64 random(testing::seed());
  Guarded memory(kBlockFloats * sizeof(float));
  verbs.begin();
  for (int f = 0; f < kIntegerBlocks; ++f) {
    const auto format = static_cast<IntegerBlock>(f);
    if (verbs.integers[f][0][0] == nullptr) continue;
    if (format == kRaisedBytes && verbs.name == std::string("avx512") && !has_vnni()) continue;
    for (int units = 1; units <= kMostUnits; ++units)
      for (const bool accumulate : {false, true}) {
        Product product(format, units, units % 3 == 0, accumulate, random);
        for (const int columns : {1, 2})
          for (const int rows : {1, 8, 17, 32}) {
            auto* c = memory.tail<std::int32_t>(kBlockFloats * sizeof(float));
            std::memcpy(c, product.start.data(), kBlockFloats * sizeof(float));
            verbs.integers[f][accumulate][columns - 1](product.operands(rows), reinterpret_cast<float*>(c),
                                                       nullptr);
            for (int i = 0; i < rows; ++i)
              for (int j = 0; j < columns * kLanes; ++j) {
                const int at = c_offset(i, j / kLanes) + j % kLanes;
                ASSERT_EQ(c[at], product.want[at])
                    << verbs.name << " " << kNames[f] << " units " << units << " row " << i << " column " << j
                    << " accumulate " << accumulate << ", " << testing::seed_line();
              }
          }
      }
  }
  verbs.end();
}

INSTANTIATE_TEST_SUITE_P(Arch, IntegerBlocks, ::testing::ValuesIn(machines()),
                         [](const auto& info) { return std::string(info.param.verbs->name); });
INSTANTIATE_TEST_SUITE_P(Definition, IntegerBlocks,
                         ::testing::Values(Machine{&verbs_scalar, "natively", true}),
                         [](const auto& info) { return std::string(info.param.verbs->name); });

}  // namespace
}  // namespace fusion_attention::arch
