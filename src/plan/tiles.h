// 32 × 32 tiles of scores: the unit in which work is counted, shared out and reported.
#pragma once

#include <cstdint>

#include "fusion_attention/problem.h"

namespace fusion_attention::plan {

// Tiles of one head by how much of them is shown.
struct TileCounts {
  std::int64_t none = 0, part = 0, full = 0;
};

// The tiles of rows [row, row + 32) of a sequence, by its band alone. O(1): both ends of what a row sees
// never decrease with the row, so the first and the last row tell everything.
TileCounts tiles_of_rows(const Sequence& sequence, std::int64_t row);

// The tiles that any of the rows [begin, end) sees part of; begin is a multiple of 32.
std::int64_t visible_tiles(const Sequence& sequence, std::int64_t begin, std::int64_t end);

// Over all sequences, by their bands alone.
TileCounts count_tiles(const Problem& problem);

}  // namespace fusion_attention::plan
