// Rows and keys that belong to no sequence: zero output, zero gradients, statistics (−FLT_MAX, 1).
#pragma once

#include <vector>

#include "fusion_attention/problem.h"

namespace fusion_attention::plan {

class Uncovered {
 public:
  // Touches no tensor. Memory is reused from run to run.
  void find(const Problem& problem);

  // Of the same problem.
  void fill(const Problem& problem) const;

 private:
  struct Range {
    std::int64_t batch, begin, end;
  };
  void gaps(std::int64_t batches, std::int64_t size, std::vector<Range>& out);
  static void clear(const TensorView& view, const Range& range);

  std::int64_t covered_rows_ = 0;  // over all sequences: the statistics of the others follow theirs
  std::vector<Range> rows_, keys_;
  std::vector<Range> covered_;  // while gaps are found
};

}  // namespace fusion_attention::plan
