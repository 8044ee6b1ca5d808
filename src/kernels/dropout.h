// Which probabilities survive: the bits of Philox4x32-10 (scores.h), sixteen counters at a time, or given
// ones.
//
// A counter gives the words of four neighbouring indices e, so a row of 32 keys needs 8 counters, or 9 when
// it does not begin at a multiple of four. Rows are therefore generated over as many keys as are at hand, and
// what the last few of them need of one more counter is computed for sixteen rows together.
#pragma once

#include "kernels/kernels.h"
#include "kernels/pack.h"

namespace fusion_attention::kernels {

// Bit i of x to bit 4·i.
FA_INLINE std::uint64_t every_fourth(std::uint64_t x) {
  x = (x | x << 24) & 0x000000FF000000FFull;
  x = (x | x << 12) & 0x000F000F000F000Full;
  x = (x | x << 6) & 0x0303030303030303ull;
  return (x | x << 3) & 0x1111111111111111ull;
}

template <class Arch>
class KeptBits {
 public:
  FA_INLINE explicit KeptBits(const DropoutPlane& dropout) : d_(dropout) {}

  // Bit j of words[step*stride + r] says whether key 32·step + j of row r is kept: `rows` ≤ 32 rows, of which
  // the first begins at index e and the others `pitch` further each, over `steps` steps.
  void fill(std::uint64_t e, std::int64_t pitch, int rows, int steps, std::uint32_t* words,
            int stride) const {
    if (d_.bits) return read(e, pitch, rows, steps, words, stride);
    for (int r = 0; r < rows; ++r)
      generate(e + static_cast<std::uint64_t>(r * pitch), steps, words + r, stride);
    for (int r = 0; r < rows; r += kLanes)
      append(e + static_cast<std::uint64_t>(r * pitch), pitch, static_cast<int>(lesser(kLanes, rows - r)),
             steps, words + r, stride);
  }

 private:
  // The bits that the counters from e/4 on give; those of the first e % 4 indices are shifted out.
  void generate(std::uint64_t e, int steps, std::uint32_t* words, int stride) const {
    const int skip = static_cast<int>(e % 4);
    for (int step = 0; step < steps; step += 2) {
      const std::uint64_t bits = sixteen(e / 4 + static_cast<std::uint64_t>(step) * 8);
      if (step > 0 && skip > 0) words[(step - 1) * stride] |= static_cast<std::uint32_t>(bits << (32 - skip));
      const std::uint64_t shifted = bits >> skip;
      words[step * stride] = static_cast<std::uint32_t>(shifted);
      if (step + 1 < steps) words[(step + 1) * stride] = static_cast<std::uint32_t>(shifted >> 32);
    }
  }

  // The last e % 4 keys of the last step, of the counter after those.
  void append(std::uint64_t e, std::int64_t pitch, int rows, int steps, std::uint32_t* words,
              int stride) const {
    if (steps % 2 != 0) return;  // an odd last step was cut out of 64 bits
    std::uint64_t counter[kLanes] = {};
    bool any = false;
    for (int r = 0; r < rows; ++r) {
      const std::uint64_t first = e + static_cast<std::uint64_t>(r * pitch);
      counter[r] = first / 4 + static_cast<std::uint64_t>(steps) * 8;
      any |= first % 4 != 0;
    }
    if (!any) return;
    std::uint16_t kept[4];
    Arch::philox(counter, d_.offset, d_.seed, d_.threshold, kept);
    for (int r = 0; r < rows; ++r) {
      const auto skip = static_cast<int>((e + static_cast<std::uint64_t>(r * pitch)) % 4);
      std::uint32_t& word = words[(steps - 1) * stride + r];
      for (int i = 0; i < skip; ++i) word |= std::uint32_t{kept[i] >> r & 1u} << (32 - skip + i);
    }
  }

  // The indices 4·counter … 4·counter + 63, one bit each.
  FA_INLINE std::uint64_t sixteen(std::uint64_t counter) const {
    std::uint64_t counters[kLanes];
    for (int i = 0; i < kLanes; ++i) counters[i] = counter + static_cast<std::uint64_t>(i);
    std::uint16_t kept[4];
    Arch::philox(counters, d_.offset, d_.seed, d_.threshold, kept);
    return every_fourth(kept[0]) | every_fourth(kept[1]) << 1 | every_fourth(kept[2]) << 2 |
           every_fourth(kept[3]) << 3;
  }

  // Given bits, least significant first. Nothing past the last byte is read.
  void read(std::uint64_t e, std::int64_t pitch, int rows, int steps, std::uint32_t* words,
            int stride) const {
    for (int r = 0; r < rows; ++r)
      for (int step = 0; step < steps; ++step) {
        const std::uint64_t first = e + static_cast<std::uint64_t>(r * pitch + step * kBlock);
        std::uint64_t bits = 0;
        for (std::uint64_t byte = 0; byte < 5 && first / 8 + byte < d_.bytes; ++byte)
          bits |= std::uint64_t{d_.bits[first / 8 + byte]} << 8 * byte;
        words[step * stride + r] = static_cast<std::uint32_t>(bits >> first % 8);
      }
  }

  const DropoutPlane& d_;
};

// Bit j of word i to bit i of word j, 32 × 32: halves, quarters, … swapped (Hacker's Delight §7-3).
template <class Arch>
FA_INLINE void transpose_bits(std::uint32_t* word) {
  std::uint32_t mask = 0x0000FFFFu;
  for (int width = 16; width > 0; width /= 2, mask ^= mask << width)
    for (int i = 0; i < kBlock; ++i) {
      if (i & width) continue;
      const std::uint32_t swap = (word[i] >> width ^ word[i + width]) & mask;
      word[i] ^= swap << width;
      word[i + width] ^= swap;
    }
}

}  // namespace fusion_attention::kernels
