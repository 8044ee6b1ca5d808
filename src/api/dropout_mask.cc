#include "fusion_attention/dropout_mask.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "api/refuse.h"
#include "base/parallel.h"
#include "fusion_attention/run.h"

namespace fusion_attention {
namespace {

constexpr std::int64_t kGroup = 16;  // bytes that the documents round up to
constexpr std::int64_t kAtOnce = 8;  // counters side by side, so that the compiler vectorizes
constexpr std::int64_t kTask = std::int64_t{1} << 16;  // bytes of one task

struct Key {
  std::uint32_t low, high;
};

// Philox4x32-10 of kAtOnce counters from `first` on, 4 words each: words[word][counter].
using Words = std::array<std::array<std::uint32_t, kAtOnce>, 4>;

Words philox(std::uint64_t first, std::uint64_t offset, Key key) {
  Words c;
  for (std::size_t i = 0; i < kAtOnce; ++i) {
    const std::uint64_t counter = first + i;
    c[0][i] = static_cast<std::uint32_t>(counter);
    c[1][i] = static_cast<std::uint32_t>(counter >> 32);
    c[2][i] = static_cast<std::uint32_t>(offset);
    c[3][i] = static_cast<std::uint32_t>(offset >> 32);
  }
  for (int round = 0; round < 10; ++round) {
    for (std::size_t i = 0; i < kAtOnce; ++i) {
      const std::uint64_t a = std::uint64_t{0xD2511F53} * c[0][i], b = std::uint64_t{0xCD9E8D57} * c[2][i];
      c[0][i] = static_cast<std::uint32_t>(b >> 32) ^ c[1][i] ^ key.low;
      c[1][i] = static_cast<std::uint32_t>(b);
      c[2][i] = static_cast<std::uint32_t>(a >> 32) ^ c[3][i] ^ key.high;
      c[3][i] = static_cast<std::uint32_t>(a);
    }
    key.low += 0x9E3779B9, key.high += 0xBB67AE85;
  }
  return c;
}

// u = x / 2²³ of the low 23 bits is at least `drop` exactly where x is at least this.
std::uint32_t threshold(float drop) {
  constexpr auto kSteps = 1u << 23;
  const float scaled = drop * static_cast<float>(kSteps);  // exact: a power of two
  const auto whole = static_cast<std::uint32_t>(scaled);
  return whole + (static_cast<float>(whole) < scaled ? 1 : 0);
}

}  // namespace

std::int64_t dropout_mask_bytes(std::int64_t numbers) {
  const std::int64_t bits = 8 * kGroup;
  return (numbers / bits + (numbers % bits != 0 ? 1 : 0)) * kGroup;
}

void dropout_mask(std::int64_t numbers, double keep_prob, std::uint64_t seed, std::uint64_t offset,
                  std::uint8_t* bits) {
  if (numbers < 0) refuse("size", number(numbers) + " numbers", "0 or more");
  if (!(keep_prob >= 0 && keep_prob <= 1)) refuse("p", std::to_string(1 - keep_prob), "0 to 1");
  const std::int64_t bytes = dropout_mask_bytes(numbers);
  const std::uint32_t least = threshold(1.0f - static_cast<float>(keep_prob));
  const Key key{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)};
  constexpr std::int64_t kStep = kAtOnce * 4 / 8;  // bytes of one philox()
  parallel_for((bytes + kTask - 1) / kTask, thread_count(), [&](std::int64_t task, int) {
    const std::int64_t end = std::min((task + 1) * kTask, bytes);
    for (std::int64_t byte = task * kTask; byte < end; byte += kStep) {
      const Words words = philox(static_cast<std::uint64_t>(byte) * 2, offset, key);
      std::uint32_t kept = 0;
      for (std::size_t i = 0; i < kAtOnce; ++i)
        for (std::size_t word = 0; word < 4; ++word)
          kept |= ((words[word][i] & 0x7FFFFFu) >= least ? 1u : 0u) << (4 * i + word);
      for (std::int64_t part = 0; part < kStep; ++part)
        bits[byte + part] = static_cast<std::uint8_t>(kept >> (8 * part));
    }
  });
}

}  // namespace fusion_attention
