// Random numbers of a test: a fresh seed each run, printed with every failure, or FUSION_ATTENTION_SEED.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <random>
#include <string>

namespace fusion_attention::testing {

inline std::uint64_t seed() {
  static const std::uint64_t value = [] {
    const char* given = std::getenv("FUSION_ATTENTION_SEED");
    return given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device()();
  }();
  return value;
}

inline std::string seed_line() {
  return "FUSION_ATTENTION_SEED=" + std::to_string(seed());
}

}  // namespace fusion_attention::testing
