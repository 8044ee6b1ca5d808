#include "api/diagonal_tiles.h"

#include <algorithm>
#include <cstddef>

#include "base/math.h"

namespace fusion_attention {
namespace {

// Tiles of rows; the last may have no keys, and takes part all the same: the statistics lie sequence by
// sequence.
std::int64_t tiles_of(const Problem& whole, std::int64_t tile) {
  return ceil_div(whole.query.rows(), tile);
}

// [batches, heads, tiles, tile, tile]: the mask and the bias of each key; [tile, tile] where there is no
// bias.
std::vector<float> diagonal_bias(const Problem& whole, std::int64_t tile, const std::vector<float>& mask) {
  if (!whole.bias) return mask;
  const std::int64_t tiles = tiles_of(whole, tile), heads = whole.query.heads(), keys = whole.key.rows();
  std::vector<float> sums;
  sums.reserve(whole.sequences.size() * static_cast<std::size_t>(heads * tiles) * mask.size());
  for (const Sequence& s : whole.sequences)
    for (std::int64_t head = 0; head < heads; ++head) {
      const float* of_keys = static_cast<const float*>(whole.bias.data) + s.bias.base + head * s.bias.head;
      for (std::int64_t first = 0; first < tiles * tile; first += tile)
        for (std::size_t i = 0; i < mask.size(); ++i) {
          const std::int64_t key = first + static_cast<std::int64_t>(i) % tile;
          sums.push_back(mask[i] + (key < keys ? of_keys[key] : 0.0f));
        }
    }
  return sums;
}

// One sequence per tile: their rows and their keys are disjoint.
Problem diagonal(const Problem& whole, std::int64_t tile, const std::vector<float>& bias) {
  const std::int64_t tiles = tiles_of(whole, tile), of_tile = tile * tile;
  Problem part = whole;
  part.sequences.clear();
  for (const Sequence& s : whole.sequences)
    for (std::int64_t t = 0; t < tiles; ++t) {
      const std::int64_t first = t * tile;
      Sequence block{.batch = s.batch,
                     .row = first,
                     .rows = std::min(tile, s.rows - first),
                     .key = std::min(first, s.keys),
                     .keys = std::clamp<std::int64_t>(s.keys - first, 0, tile),
                     .band = {},
                     .bias = {.row = tile},
                     .dropout = s.dropout};
      if (whole.bias) {
        block.bias.head = tiles * of_tile;
        block.bias.base = s.batch * whole.query.heads() * block.bias.head + t * of_tile;
      }
      block.dropout.base += first * s.dropout.row + first;
      part.sequences.push_back(block);
    }
  part.bias = {
      .kind = BiasKind::dense, .data = bias.data(), .elements = static_cast<std::int64_t>(bias.size())};
  return part;
}

Problem under(const Problem& whole, const Band& band) {
  Problem part = whole;
  for (Sequence& s : part.sequences) s.band = band;
  return part;
}

}  // namespace

std::vector<Problem> split_at_diagonal(const Problem& whole, std::int64_t tile,
                                       const std::vector<float>& mask, std::vector<float>& bias) {
  std::vector<Problem> parts;
  bias = diagonal_bias(whole, tile, mask);
  parts.push_back(diagonal(whole, tile, bias));
  Band before = whole.sequences[0].band, after = before;
  before.block = after.block = tile;
  before.hi = -1;
  after.lo = tile;
  if (before.lo < 0 && whole.query.rows() > tile) parts.push_back(under(whole, before));
  if (after.hi >= after.lo && whole.key.rows() > tile) parts.push_back(under(whole, after));
  return parts;
}

}  // namespace fusion_attention
