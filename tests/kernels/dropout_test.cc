// The bits of dropout against one index at a time.
#include "kernels/dropout.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "arch/scalar.h"

namespace fusion_attention::kernels {
namespace {

using arch::Scalar;

// One index by itself.
bool kept(const DropoutPlane& d, std::uint64_t e) {
  if (d.bits) return d.bits[e / 8] >> e % 8 & 1;
  std::uint32_t words[4];
  arch::Philox::words(e / 4, d.offset, d.seed, words);
  return (words[e % 4] & 0x7FFFFFu) >= d.threshold;
}

void expect_bits(const DropoutPlane& d, std::uint64_t e, std::int64_t pitch, int rows, int steps) {
  std::vector<std::uint32_t> words(static_cast<std::size_t>(steps * kBlock), 0xA5A5A5A5u);
  KeptBits<Scalar>(d).fill(e, pitch, rows, steps, words.data(), kBlock);
  for (int r = 0; r < rows; ++r)
    for (int j = 0; j < steps * kBlock; ++j) {
      const std::uint64_t index = e + static_cast<std::uint64_t>(r * pitch + j);
      if (d.bits && index / 8 >= d.bytes) continue;
      ASSERT_EQ(words[static_cast<std::size_t>(j / kBlock * kBlock + r)] >> j % kBlock & 1, kept(d, index))
          << "e " << e << " pitch " << pitch << " row " << r << " key " << j;
    }
}

TEST(KeptBits, EveryAlignmentAndLength) {
  const DropoutPlane d{.on = true, .seed = 42, .offset = 12, .threshold = 3000000};
  for (std::uint64_t e = 0; e < 6; ++e)
    for (const std::int64_t pitch : {64, 65, 66, 67, 1000})
      for (const int steps : {1, 2, 3, 8})
        expect_bits(d, e + (e == 5 ? 0xFFFFFFFFFFull : 0), pitch, 32, steps);
  expect_bits(d, 7, 33, 5, 2);
}

TEST(KeptBits, AreReadWhereGiven) {
  std::mt19937 random(1);
  std::vector<std::uint8_t> bits(301);
  for (auto& byte : bits) byte = static_cast<std::uint8_t>(random());
  const DropoutPlane d{.on = true, .bits = bits.data(), .bytes = bits.size()};
  for (const int steps : {1, 3}) expect_bits(d, 5, 67, 32, steps);
}

TEST(TransposeBits, IsTheTranspose) {
  std::mt19937 random(2);
  std::uint32_t word[kBlock], turned[kBlock];
  for (auto& w : word) w = static_cast<std::uint32_t>(random());
  std::copy(word, word + kBlock, turned);
  transpose_bits<Scalar>(turned);
  for (int i = 0; i < kBlock; ++i)
    for (int j = 0; j < kBlock; ++j) EXPECT_EQ(turned[j] >> i & 1, word[i] >> j & 1);
}

}  // namespace
}  // namespace fusion_attention::kernels
