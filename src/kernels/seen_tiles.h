// Who sees what of a super-block of queries and a group of keys, tile by tile of 32 × 32, by the band, a
// dense mask and dropout: asked before the keys are packed. The backward works transposed: a word is one key,
// its bits 32 queries.
#pragma once

#include "kernels/dropout.h"
#include "kernels/visible.h"

namespace fusion_attention::kernels {

template <class Arch>
class SeenTiles {
  static constexpr AllShown kAllShown{};

 public:
  struct Memory {
    Interval* visible;     // of each query: the keys it sees by the band
    std::uint32_t* alive;  // of each block of queries: those that exist and saw something
    Seen* seen;            // of each block of queries: blocks of keys of the group
    std::uint32_t* rows;   // [block of keys][query], of one block of queries: not turned yet
    std::uint32_t* shown;  // [block of queries][block of keys][key], of tiles that are seen in part
    std::uint32_t* kept;   // likewise, of tiles that are seen
  };

  FA_INLINE SeenTiles(const Shape& shape, std::int64_t group_blocks, const Memory& memory)
      : shape_(shape), group_blocks_(group_blocks), m_(memory) {}

  // Queries [row, row + rows) of a head, row a multiple of 32. set_alive() of every block comes between this
  // and look().
  void start(std::int64_t head, std::int64_t row, std::int64_t rows) {
    head_ = head, row_ = row, rows_ = rows;
    const ForwardTask whole{.row_end = shape_.rows, .key_end = shape_.keys};
    for (std::int64_t i = 0; i < rows; ++i) m_.visible[i] = visible_keys(shape_, whole, row + i);
  }
  void set_alive(std::int64_t query, std::uint32_t alive) { m_.alive[query] = alive; }

  // Keys that the band shows to any of the queries, from a multiple of 32.
  Interval reach() const { return {round_down(m_.visible[0].begin, kBlock), m_.visible[rows_ - 1].end}; }

  // Looks at keys [key, key + keys), key a multiple of 32; returns the blocks of them that any query sees.
  Steps look(std::int64_t key, std::int64_t keys) {
    key_ = key, keys_ = keys;
    Steps some = 0;
    for (std::int64_t query = 0; query < blocks(); ++query) {
      m_.seen[query] = look(query);
      some |= m_.seen[query].some;
      if (shape_.dropout.on && this->keys(query) != 0) draw(query);
    }
    return some;
  }

  // Blocks of keys that a block of queries sees any of, and the other way round.
  Steps keys(std::int64_t query) const { return m_.seen[query].some; }
  Steps queries(std::int64_t b) const {
    Steps all = 0;
    for (std::int64_t query = 0; query < blocks(); ++query) all |= (keys(query) >> b & 1) << query;
    return all;
  }

  // Of a tile that is seen: whether some pair is not, what is seen of it, and what dropout keeps.
  bool part(std::int64_t query, std::int64_t b) const { return !(m_.seen[query].every >> b & 1); }
  const std::uint32_t* shown(std::int64_t query, std::int64_t b) const {
    return part(query, b) ? of_tile(m_.shown, query, b) : kAllShown.words;
  }
  const std::uint32_t* kept(std::int64_t query, std::int64_t b) const { return of_tile(m_.kept, query, b); }

 private:
  std::int64_t blocks() const { return ceil_div(rows_, kBlock); }
  int rows_of(std::int64_t query) const { return static_cast<int>(lesser(kBlock, rows_ - query * kBlock)); }
  std::uint32_t* of_tile(std::uint32_t* words, std::int64_t query, std::int64_t b) const {
    return words + (query * group_blocks_ + b) * kBlock;
  }

  Seen look(std::int64_t query) {
    const std::uint32_t alive = m_.alive[query];
    if (alive == 0) return {};
    const Interval* visible = m_.visible + query * kBlock;
    Seen seen = seen_by_band(visible[0], visible[rows_of(query) - 1], key_, key_ + keys_);
    const std::uint32_t* words = m_.rows;
    if (shape_.overlay.data) {
      words = read_mask(query, seen);
      seen = seen_in_words<Arch>(words, seen.some);
    }
    if (alive != ~std::uint32_t{0}) seen.every = 0;
    for (Steps part = seen.some & ~seen.every; part != 0; part &= part - 1) {
      const int b = first_step(part);
      if (!shape_.overlay.data) read_band(query, b);
      std::uint32_t* shown = of_tile(m_.shown, query, b);
      for (int i = 0; i < kBlock; ++i) shown[i] = words[b * kBlock + i];
      transpose_bits<Arch>(shown);
      for (int i = 0; i < kBlock; ++i) shown[i] &= alive;
    }
    return seen;
  }

  // Words of queries, of the blocks of keys that the band shows.
  const std::uint32_t* read_mask(std::int64_t query, Seen band) const {
    const OverlayPlane& mask = shape_.overlay;
    const std::int64_t row = row_ + query * kBlock;
    if (mask.words) return mask.words + row / kBlock * round_up(shape_.keys, kBlock) + key_;
    const std::uint8_t *hidden[kBlock], *ahead[kBlock];
    for (int r = 0; r < rows_of(query); ++r) {
      hidden[r] = mask_row(mask, head_, row + r);
      ahead[r] = row + r + kBlock < row_ + rows_ ? mask_row(mask, head_, row + r + kBlock) : nullptr;
    }
    show<Arch>({m_.visible + query * kBlock, hidden, ahead, rows_of(query), shape_.keys, mask.key}, band,
               key_, m_.rows);
    return m_.rows;
  }
  void read_band(std::int64_t query, int b) const {
    const Interval* visible = m_.visible + query * kBlock;
    const std::int64_t key = key_ + b * kBlock;
    for (int r = 0; r < kBlock; ++r)
      m_.rows[b * kBlock + r] =
          r < rows_of(query) ? visible_bits(visible[r].begin - key, visible[r].end - key) : 0;
  }

  // Drawn over all keys from the first block to the last that is seen.
  void draw(std::int64_t query) {
    const DropoutPlane& d = shape_.dropout;
    const int first = first_step(keys(query)), last = last_step(keys(query));
    const std::int64_t row = row_ + query * kBlock, key = key_ + first * kBlock;
    const std::uint64_t e = d.base + static_cast<std::uint64_t>(head_ * d.head + row * d.row + key);
    KeptBits<Arch>(d).fill(e, d.row, rows_of(query), last - first + 1, of_tile(m_.kept, query, first),
                           kBlock);
    for (int b = first; b <= last; ++b) transpose_bits<Arch>(of_tile(m_.kept, query, b));
  }

  const Shape& shape_;
  const std::int64_t group_blocks_;
  const Memory m_;
  std::int64_t head_ = 0, row_ = 0, rows_ = 0;  // the super-block
  std::int64_t key_ = 0, keys_ = 0;             // the group
};

}  // namespace fusion_attention::kernels
