// Philox4x32-10 against the vectors that its authors publish (Random123, kat_vectors).
#include "arch/philox.h"

#include <gtest/gtest.h>

namespace fusion_attention::arch {
namespace {

struct Vector {
  std::uint64_t low, high, seed;
  std::uint32_t words[4];
};

TEST(Philox, GivesThePublishedVectors) {
  const Vector vectors[] = {
      {0, 0, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
      {~0ull, ~0ull, ~0ull, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
      {0x85a308d3243f6a88,
       0x0370734413198a2e,
       0x299f31d0a4093822,
       {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
  };
  for (const Vector& v : vectors) {
    std::uint32_t words[4];
    Philox::words(v.low, v.high, v.seed, words);
    for (int w = 0; w < 4; ++w) EXPECT_EQ(words[w], v.words[w]);
  }
}

}  // namespace
}  // namespace fusion_attention::arch
