// int8 rows in the formats of integers (arch/tile.h). Rows of A and the transpose of B are packed by pack.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "arch/tile.h"
#include "base/inline.h"
#include "base/math.h"
#include "kernels/pack.h"

namespace fusion_attention::kernels {

// Makes lines of A what the format wants.
template <class Format>
FA_INLINE void raise(std::byte* lines, std::size_t count) {
  if constexpr (Format::kRaise != 0) {
    static_assert(Format::kRaise == 128);
    for (std::size_t i = 0; i < count * kLine; ++i) lines[i] ^= std::byte{0x80};
  }
}

// B of which the depth is `rows` rows and the other axis `channels` ≤ 32 of their channels: [group][2 halves]
// [16 units][16 channels]. Zero past the rows, up to the end of the last group, and past the channels.
template <class Arch, class Format>
void pack_integer_depth(Rows<std::int8_t> from, std::int64_t rows, std::int64_t first_channel,
                        std::int64_t channels, std::byte* out) {
  constexpr int kUnit = Format::kUnitElements;
  using Element = std::make_unsigned_t<typename Format::B>;
  for (int half = 0; half < 2 && half * kLanes < channels; ++half) {
    const auto n = static_cast<std::size_t>(lesser(kLanes, channels - half * kLanes));
    const std::int64_t first = first_channel + half * kLanes;
    for (int u = 0; u < groups<Format>(rows) * arch::kGroupUnits; ++u) {
      alignas(64) std::int8_t line[kUnit][kLanes] = {};
      for (int e = 0; e < kUnit; ++e)
        if (const std::int64_t row = std::int64_t{u} * kUnit + e; row < rows)
          n == kLanes ? std::memcpy(line[e], from[row] + first, kLanes)
                      : std::memcpy(line[e], from[row] + first, n);
      alignas(64) std::uint32_t units[kLanes];
      for (int c = 0; c < kLanes; ++c) {
        units[c] = 0;
        for (int e = 0; e < kUnit; ++e)
          units[c] |= std::uint32_t{static_cast<Element>(line[e][c])} << e * (32 / kUnit);
      }
      std::memcpy(out + u / arch::kGroupUnits * kGroupBytes + half * (kGroupBytes / 2) +
                      u % arch::kGroupUnits * kLine,
                  units, kLine);
    }
  }
}

// What raising A adds to C, with its sign turned: of one group of B, added to the 32 columns of `sums`.
template <class Format>
FA_INLINE void lower(const std::byte* group, std::int32_t* sums) {
  for (int half = 0; half < 2; ++half)
    for (int u = 0; u < arch::kGroupUnits; ++u) {
      typename Format::B line[kLanes * Format::kUnitElements];
      std::memcpy(line, group + half * (kGroupBytes / 2) + u * kLine, kLine);
      for (int c = 0; c < kLanes; ++c) {
        std::int32_t sum = 0;
        for (int e = 0; e < Format::kUnitElements; ++e) sum += line[c * Format::kUnitElements + e];
        sums[half * kLanes + c] -= Format::kRaise * sum;
      }
    }
}

// Both halves of every row of a C block begin as the 32 columns of `sums`.
FA_INLINE void begin_block(const std::int32_t* sums, int rows, float* c) {
  for (int row = 0; row < rows; ++row)
    for (int half = 0; half < 2; ++half)
      std::memcpy(c + arch::c_offset(row, half), sums + half * kLanes, kLine);
}

}  // namespace fusion_attention::kernels
