// Philox4x32-10, constants of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011).
#pragma once

#include <cstdint>

#include "base/inline.h"

namespace fusion_attention::arch {

struct Philox {
  static constexpr int kRounds = 10;
  static constexpr std::uint32_t kMultiply0 = 0xD2511F53u, kMultiply1 = 0xCD9E8D57u;
  static constexpr std::uint32_t kWeyl0 = 0x9E3779B9u, kWeyl1 = 0xBB67AE85u;
  static constexpr std::uint32_t kFraction = 0x7FFFFFu;  // the bits of a word that are compared

  // The four words of counter (low, high) under `seed`.
  FA_INLINE static void words(std::uint64_t low, std::uint64_t high, std::uint64_t seed,
                              std::uint32_t (&c)[4]) {
    c[0] = static_cast<std::uint32_t>(low), c[1] = static_cast<std::uint32_t>(low >> 32);
    c[2] = static_cast<std::uint32_t>(high), c[3] = static_cast<std::uint32_t>(high >> 32);
    auto key0 = static_cast<std::uint32_t>(seed), key1 = static_cast<std::uint32_t>(seed >> 32);
    for (int round = 0; round < kRounds; ++round, key0 += kWeyl0, key1 += kWeyl1) {
      const std::uint64_t product0 = std::uint64_t{kMultiply0} * c[0],
                          product1 = std::uint64_t{kMultiply1} * c[2];
      c[0] = static_cast<std::uint32_t>(product1 >> 32) ^ c[1] ^ key0;
      c[1] = static_cast<std::uint32_t>(product1);
      c[2] = static_cast<std::uint32_t>(product0 >> 32) ^ c[3] ^ key1;
      c[3] = static_cast<std::uint32_t>(product0);
    }
  }
};

}  // namespace fusion_attention::arch
