// Which pairs a block of 32 rows sees, by the band and by a dense mask: as intervals, as bits of a step of 32
// keys, and as the steps of a chunk that nobody sees or everybody sees in full.
#pragma once

#include <cstdint>

#include "base/inline.h"
#include "base/math.h"
#include "fusion_attention/mask.h"
#include "kernels/kernels.h"
#include "kernels/pack.h"

namespace fusion_attention::kernels {

// Keys [begin, end) of 32 that a row sees, as bits: bit j = key j.
FA_INLINE std::uint32_t visible_bits(std::int64_t begin, std::int64_t end) {
  const std::int64_t b = clamp(begin, 0, 32), e = clamp(end, 0, 32);
  return static_cast<std::uint32_t>(((std::uint64_t{1} << e) - 1) & ~((std::uint64_t{1} << b) - 1));
}

// The bytes of a dense mask at keys [key, key + n), n ≤ 32, as bits: set = hidden.
template <class Arch>
FA_INLINE std::uint32_t hidden_bits(const std::uint8_t* row, std::int64_t stride, std::int64_t key,
                                    std::int64_t n) {
  const std::uint8_t* p = row + key * stride;
  if (stride == 1 && n >= kBlock)
    return Arch::bytes(p, kLanes) | std::uint32_t{Arch::bytes(p + kLanes, kLanes)} << 16;
  if (stride == 1) {
    const std::uint32_t low = Arch::bytes(p, static_cast<int>(lesser(n, 16)));
    return n > 16 ? low | std::uint32_t{Arch::bytes(p + 16, static_cast<int>(n - 16))} << 16 : low;
  }
  std::uint32_t bits = 0;
  for (std::int64_t j = 0; j < n; ++j) bits |= std::uint32_t{p[j * stride] != 0} << j;
  return bits;
}

// Local keys of the task that row i sees, by the band alone.
FA_INLINE Interval visible_keys(const Shape& shape, const ForwardTask& task, std::int64_t i) {
  if (shape.band.full()) return {task.key_begin, lesser(shape.keys, task.key_end)};  // saves a division
  const Interval global = shape.band.row(shape.row0 + i, shape.key0 + shape.keys);
  return {greater(global.begin - shape.key0, task.key_begin), lesser(global.end - shape.key0, task.key_end)};
}

// Keys that any row of the task sees, from a multiple of 32: steps are anchored at key 0 of the sequence.
FA_INLINE Interval reached_keys(const Shape& shape, const ForwardTask& task) {
  return {round_down(visible_keys(shape, task, task.row_begin).begin, kBlock),
          visible_keys(shape, task, task.row_end - 1).end};
}

FA_INLINE const std::uint8_t* mask_row(const OverlayPlane& mask, std::int64_t head, std::int64_t row) {
  return mask.data ? mask.data + head * mask.head + row * mask.row : nullptr;
}

// The words of 32 rows that see all of a step.
struct AllShown {
  std::uint32_t words[kBlock];

  constexpr AllShown() : words() {
    for (std::uint32_t& word : words) word = ~0u;
  }
};
inline constexpr AllShown kAllShown;

// Steps of a chunk of at most 64, as bits: bit i = keys chunk + 32·i … + 31.
using Steps = std::uint64_t;

FA_INLINE Steps steps_below(std::int64_t n) {
  return n >= 64 ? ~Steps{0} : (Steps{1} << n) - 1;
}
FA_INLINE int first_step(Steps steps) {
  return __builtin_ctzll(steps);
}
FA_INLINE int last_step(Steps steps) {
  return 63 - __builtin_clzll(steps);
}

// What a block of rows sees of a chunk.
struct Seen {
  Steps some = 0;   // some row, some key
  Steps every = 0;  // every row, every key
};

// By the band alone: keys [chunk, end) and rows whose intervals grow from `top` to `bottom`.
FA_INLINE Seen seen_by_band(Interval top, Interval bottom, std::int64_t chunk, std::int64_t end) {
  const auto from_chunk = [&](std::int64_t key) { return clamp(key - chunk, 0, end - chunk); };
  const Steps some =
      steps_below(ceil_div(from_chunk(bottom.end), kBlock)) & ~steps_below(from_chunk(top.begin) / kBlock);
  return {some, some & steps_below(from_chunk(top.end) / kBlock) &
                    ~steps_below(ceil_div(from_chunk(bottom.begin), kBlock))};
}

// The rows of a block before a dense mask.
struct MaskedRows {
  const Interval* visible;            // by the band
  const std::uint8_t* const* hidden;  // the row of the mask
  const std::uint8_t* const* ahead;   // the same of a block that will be looked at next; null entries behind
  int rows;                           // of 32
  std::int64_t keys;                  // of the sequence
  std::int64_t stride;                // bytes between keys of the mask
};

// By the band, which is `band`, and the mask: words[32·step + row] of all steps in band.some. A row of the
// mask is read over the whole chunk, as it lies in memory, while the same row of the next block is fetched:
// rows are short pieces, at which the machine's own prefetching begins anew.
template <class Arch>
Seen seen_by_mask(const MaskedRows m, const Seen band, std::int64_t chunk, std::uint32_t* words) {
  if (!band.some) return {};
  const int begin = first_step(band.some), end = last_step(band.some) + 1;
  const int whole = static_cast<int>(lesser(end, (m.keys - chunk) / kBlock));
  for (int r = 0; r < m.rows; ++r) {
    const std::uint8_t *row = m.hidden[r] + chunk * m.stride, *ahead = m.ahead[r];
    std::uint32_t* to = words + r;
    int step = begin;
    if (m.stride == 1) {
      for (; step < whole; ++step) {
        if (ahead && step % 2 == 0) __builtin_prefetch(ahead + chunk + step * kBlock);
        to[step * kBlock] = ~hidden_bits<Arch>(row, 1, step * kBlock, kBlock);
      }
    }
    for (; step < end; ++step) {
      const std::int64_t key = step * kBlock;
      to[key] = ~hidden_bits<Arch>(row, m.stride, key, lesser(m.keys - chunk - key, kBlock));
    }
  }
  for (Steps edges = band.some & ~band.every; edges != 0; edges &= edges - 1) {
    const int step = first_step(edges);
    const std::int64_t key = chunk + step * kBlock;
    for (int r = 0; r < m.rows; ++r)
      words[step * kBlock + r] &= visible_bits(m.visible[r].begin - key, m.visible[r].end - key);
  }
  Seen seen;
  for (int step = begin; step < end; ++step) {
    std::uint32_t some = 0, every = ~0u;
    for (int r = 0; r < m.rows; ++r) {
      some |= words[step * kBlock + r];
      every &= words[step * kBlock + r];
    }
    for (int r = m.rows; r < kBlock; ++r) words[step * kBlock + r] = 0;
    seen.some |= Steps{some != 0} << step;
    seen.every |= Steps{every == ~0u} << step;
  }
  return seen;
}

}  // namespace fusion_attention::kernels
