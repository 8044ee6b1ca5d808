// Which keys of a sequence are its own, and which some row sees.
#pragma once

#include <algorithm>

#include "base/math.h"
#include "fusion_attention/problem.h"

namespace fusion_attention {

// The most keys of a sequence behind its prefix.
inline std::int64_t most_own_keys(const Problem& p) {
  std::int64_t most = 0;
  for (const Sequence& s : p.sequences) most = std::max(most, s.keys - s.prefix);
  return most;
}

// Local, by the band alone, from a multiple of 32, which is where kernels begin to read; may be empty. Both
// ends of what a row sees never decrease with the row.
inline Interval reach(const Sequence& s) {
  if (s.rows == 0) return {};
  const std::int64_t keys = s.key0 + s.keys, first = s.band.row(s.row0, keys).begin - s.key0;
  return {round_down(greater(first, 0), 32), s.band.row(s.row0 + s.rows - 1, keys).end - s.key0};
}

// Pages of so many keys, of which there may be 2^63 - 1: nothing is added to them.
inline std::int64_t pages_of(std::int64_t keys, std::int64_t page_rows) {
  return keys / page_rows + (keys % page_rows != 0 ? 1 : 0);
}

// The pages that hold such keys, counted from Sequence::page; may be empty.
inline Interval reached_pages(const Sequence& s, std::int64_t page_rows) {
  const Interval keys = reach(s);
  return {greater(keys.begin - s.prefix, 0) / page_rows,
          pages_of(greater(keys.end - s.prefix, 0), page_rows)};
}

}  // namespace fusion_attention
