#include "plan/tiles.h"

#include "base/math.h"

namespace fusion_attention::plan {

TileCounts tiles_of_rows(const Sequence& s, std::int64_t row) {
  const std::int64_t last = lesser(row + 32, s.rows) - 1;
  const auto local_keys = [&](std::int64_t i) {
    const Interval keys = s.band.row(s.row0 + i, s.key0 + s.keys);
    return Interval{greater(keys.begin - s.key0, 0), greater(keys.end - s.key0, 0)};
  };
  const Interval top = local_keys(row), bottom = local_keys(last);
  TileCounts counts{.none = ceil_div(s.keys, 32)};
  if (top.begin >= bottom.end) return counts;
  const std::int64_t any = ceil_div(bottom.end, 32) - top.begin / 32;
  // A tile of the ragged edge is full when all of its real keys are visible.
  const std::int64_t all_end = top.end == s.keys ? ceil_div(s.keys, 32) : top.end / 32;
  counts.full = greater(0, all_end - ceil_div(bottom.begin, 32));
  counts.part = any - counts.full;
  counts.none -= any;
  return counts;
}

std::int64_t visible_tiles(const Sequence& s, std::int64_t begin, std::int64_t end) {
  if (s.band.full()) return ceil_div(greater(end - begin, 0), 32) * ceil_div(s.keys, 32);
  std::int64_t tiles = 0;
  for (std::int64_t row = begin; row < end; row += 32) {
    const TileCounts counts = tiles_of_rows(s, row);
    tiles += counts.part + counts.full;
  }
  return tiles;
}

TileCounts count_tiles(const Problem& problem) {
  TileCounts total;
  for (const Sequence& s : problem.sequences)
    for (std::int64_t row = 0; row < s.rows; row += 32) {
      const TileCounts counts = tiles_of_rows(s, row);
      total.none += counts.none;
      total.part += counts.part;
      total.full += counts.full;
    }
  return total;
}

}  // namespace fusion_attention::plan
