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

// The words of 32 rows that see all of a step. Whoever points to a constant of this type declares it in a
// class of one arch: at namespace scope it would be one symbol in objects of different instruction sets.
struct AllShown {
  std::uint32_t words[kBlock];

  constexpr AllShown() : words() {
    for (std::uint32_t& word : words) word = ~0u;
  }
};

// Steps of a chunk of at most 64 (2048 keys), as bits: bit i = keys chunk + 32·i … + 31. Of the backward also
// the blocks of 32 queries of a super-block.
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

// visit(run) of every run of neighbours.
template <class Visit>
FA_INLINE void each_run(Steps steps, const Visit& visit) {
  while (steps != 0) {
    const int begin = first_step(steps);
    const Steps past = ~(steps >> begin);
    const int end = past == 0 ? 64 : begin + first_step(past);
    visit(Interval{begin, end});
    steps &= ~steps_below(end);
  }
}

// What a block of rows sees of a chunk.
struct Seen {
  Steps some = 0;   // some row, some key
  Steps every = 0;  // every row, every key
};

// By the band alone: keys [chunk, end), and rows from one that sees `top` to one that sees `bottom`; neither
// end of an interval ever decreases between them (mask.h).
FA_INLINE Seen seen_by_band(Interval top, Interval bottom, std::int64_t chunk, std::int64_t end) {
  const auto from_chunk = [&](std::int64_t key) { return clamp(key - chunk, 0, end - chunk); };
  const Steps some =
      steps_below(ceil_div(from_chunk(bottom.end), kBlock)) & ~steps_below(from_chunk(top.begin) / kBlock);
  return {some, some & steps_below(from_chunk(top.end) / kBlock) &
                    ~steps_below(ceil_div(from_chunk(bottom.begin), kBlock))};
}

// By the words [step][row] of 32 rows; only steps in `some` are looked at.
template <class Arch>
Seen seen_in_words(const std::uint32_t* words, Steps some) {
  Seen seen;
  for (; some != 0; some &= some - 1) {
    const int step = first_step(some);
    std::uint32_t any = 0, every = ~0u;
    for (int r = 0; r < kBlock; ++r) {
      any |= words[step * kBlock + r];
      every &= words[step * kBlock + r];
    }
    seen.some |= Steps{any != 0} << step;
    seen.every |= Steps{every == ~0u} << step;
  }
  return seen;
}

// Some rows before a dense mask, at most 32.
struct MaskedRows {
  const Interval* visible;            // by the band
  const std::uint8_t* const* hidden;  // the row of the mask
  const std::uint8_t* const* ahead;   // those that will be looked at next, null where there are none
  int rows;
  std::int64_t keys;    // of the sequence
  std::int64_t stride;  // bytes between keys of the mask
};

// The words [step][row] of a chunk, of the steps that the band shows to some row. Rows behind the last one
// are as it is, so that seen_in_words() does not depend on them. A row of the mask is read over the whole
// chunk, as it lies in memory, while a row of the next block is fetched: rows are short pieces, at which the
// machine's own prefetching begins anew.
template <class Arch>
void show(const MaskedRows m, const Seen band, std::int64_t chunk, std::uint32_t* words) {
  if (!band.some) return;
  const int begin = first_step(band.some), end = last_step(band.some) + 1;
  const int whole = static_cast<int>(lesser(end, (m.keys - chunk) / kBlock));
  for (int r = 0; r < m.rows; ++r) {
    const std::uint8_t *row = m.hidden[r] + chunk * m.stride, *ahead = m.ahead[r];
    std::uint32_t* to = words + r;
    int step = begin;
    for (; m.stride == 1 && step < whole; ++step) {
      if (ahead && step % 2 == 0) __builtin_prefetch(ahead + chunk + step * kBlock);
      to[step * kBlock] = ~hidden_bits<Arch>(row, 1, step * kBlock, kBlock);
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
  for (int step = begin; step < end; ++step)
    for (int r = m.rows; r < kBlock; ++r) words[step * kBlock + r] = words[step * kBlock + m.rows - 1];
}

// The same of all keys of a sequence, for 32 rows of it from `row` on and any head: what a mask without heads
// shows to every head alike. Words of steps that the band hides from all 32 rows are not written.
template <class Arch>
void show_rows(const Shape& shape, std::int64_t row, std::uint32_t* words) {
  const ForwardTask whole{.row_end = shape.rows, .key_end = shape.keys};
  const int rows = static_cast<int>(lesser(kBlock, shape.rows - row));
  Interval visible[kBlock];
  const std::uint8_t *hidden[kBlock], *ahead[kBlock];
  for (int r = 0; r < rows; ++r) {
    visible[r] = visible_keys(shape, whole, row + r);
    hidden[r] = mask_row(shape.overlay, 0, row + r);
    ahead[r] = row + r + kBlock < shape.rows ? mask_row(shape.overlay, 0, row + r + kBlock) : nullptr;
  }
  for (std::int64_t chunk = 0; chunk < shape.keys; chunk += kMostChunk)
    show<Arch>({visible, hidden, ahead, rows, shape.keys, shape.overlay.key},
               seen_by_band(visible[0], visible[rows - 1], chunk, lesser(shape.keys, chunk + kMostChunk)),
               chunk, words + chunk);
}

}  // namespace fusion_attention::kernels
