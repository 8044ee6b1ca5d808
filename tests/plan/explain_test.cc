// The tile counts that explain() prints, against every pair of the problem.
#include <gtest/gtest.h>

#include <cstdio>

#include "fusion_attention/fusion_attention.h"
#include "support/random.h"
#include "support/random_problem.h"

namespace fusion_attention {
namespace {

struct Counts {
  long none = 0, part = 0, full = 0;
};

Counts counted(const Problem& p) {
  Counts counts;
  for (const Sequence& s : p.sequences)
    for (std::int64_t row = 0; row < s.rows; row += 32)
      for (std::int64_t key = 0; key < s.keys; key += 32) {
        std::int64_t seen = 0, all = 0;
        for (std::int64_t i = row; i < std::min(row + 32, s.rows); ++i) {
          const Interval keys = s.band.row(s.row0 + i, s.key0 + s.keys);
          for (std::int64_t j = key; j < std::min(key + 32, s.keys); ++j, ++all)
            seen += s.key0 + j >= keys.begin && s.key0 + j < keys.end;
        }
        (seen == 0 ? counts.none : seen == all ? counts.full : counts.part) += 1;
      }
  return counts;
}

// Between the rows of a band that is narrower than its block, or empty, lie keys that no row sees: a tile
// there may be called part.
bool leaves_gaps(const Problem& p) {
  for (const Sequence& s : p.sequences)
    if (s.band.block != 1 || s.band.hi < s.band.lo) return true;
  return false;
}

TEST(Explain, CountsTiles) {
  for (int i = 0; i < 300; ++i) {
    const std::uint64_t seed = i % 2 ? testing::seed() + static_cast<std::uint64_t>(i) : i;
    testing::Draw draw(seed);
    const Problem p = testing::random_problem(draw, Pass::forward);
    const std::string report = explain(p);
    Counts told;
    const char* line = std::strstr(report.c_str(), "tiles");
    ASSERT_TRUE(line && std::sscanf(line, "tiles %ld none, %ld part, %ld full", &told.none, &told.part,
                                    &told.full) == 3)
        << report;
    const Counts truth = counted(p);
    const std::string what = text(p) + "\n  seed " + std::to_string(seed);
    EXPECT_EQ(told.none + told.part + told.full, truth.none + truth.part + truth.full) << what;
    EXPECT_EQ(told.full, truth.full) << what;
    if (leaves_gaps(p)) {
      EXPECT_LE(told.none, truth.none) << what;
    } else {
      EXPECT_EQ(told.none, truth.none) << what;
    }
  }
}

}  // namespace
}  // namespace fusion_attention
