// The dropout of the reference: the generator against its published vectors, the rule against its words.
#include <gtest/gtest.h>

#include <cmath>

#include "ref/scores.h"

namespace fusion_attention::ref {
namespace {

using Words = std::array<std::uint32_t, 4>;

// kat_vectors of Random123 1.14, philox4x32-10.
TEST(Philox, GivesThePublishedWords) {
  constexpr std::uint32_t kAll = 0xffffffff;
  EXPECT_EQ(philox({0, 0, 0, 0}, {0, 0}), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox({kAll, kAll, kAll, kAll}, {kAll, kAll}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

// The third vector through seed, offset and index: its counter is block e / 4 = 0x85a308d3243f6a88 with the
// top bits cleared, so that e is an int64.
TEST(Dropout, CountsBlocksBelowAndOffsetsAbove) {
  const std::int64_t block = 0x05a308d3243f6a88;
  const Dropout dropout{.keep_prob = 0.5,
                        .seed = 0x299f31d0a4093822,
                        .offset = 0x0370734413198a2e,
                        .bits = nullptr,
                        .bytes = 0};
  const Words words = philox({0x243f6a88, 0x05a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0});
  for (std::int64_t lane = 0; lane < 4; ++lane)
    EXPECT_EQ(kept(dropout, 4 * block + lane), (words[static_cast<std::size_t>(lane)] & 0x400000) != 0);
}

// The last fraction that is dropped and the first that is kept, by words of the first published vector.
TEST(Dropout, KeepsFractionsFromTheThresholdOn) {
  const double fraction = std::ldexp(0x6627e8d5 & 0x7fffff, -23);
  Dropout dropout{.keep_prob = 1 - fraction};
  EXPECT_TRUE(kept(dropout, 0));
  dropout.keep_prob = 1 - fraction - 0x1p-23;
  EXPECT_FALSE(kept(dropout, 0));
}

TEST(Dropout, KeepsAsManyAsAsked) {
  for (const double keep : {0.1, 0.5, 0.9}) {
    constexpr int kCount = 40'000;
    const Dropout dropout{.keep_prob = keep, .seed = 11, .offset = 3};
    int all = 0;
    for (int e = 0; e < kCount; ++e) all += kept(dropout, e);
    EXPECT_NEAR(all, kCount * keep, 4 * std::sqrt(kCount * keep * (1 - keep))) << keep;
  }
}

TEST(Dropout, ReadsGivenBitsFromTheLowest) {
  const std::uint8_t bits[] = {0b00000001, 0b10000010};
  const Dropout dropout{.keep_prob = 1, .bits = bits, .bytes = 2};
  for (std::int64_t e = 0; e < 16; ++e) EXPECT_EQ(kept(dropout, e), e == 0 || e == 9 || e == 15) << e;
}

}  // namespace
}  // namespace fusion_attention::ref
