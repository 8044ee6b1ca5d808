// Rows and keys that belong to no sequence: zero output, zero gradients, statistics (−FLT_MAX, 1).
#pragma once

#include <vector>

#include "fusion_attention/problem.h"

namespace fusion_attention::plan {

class Uncovered {
 public:
  explicit Uncovered(const Problem& problem);  // finds them; touches no tensor

  void fill() const;

 private:
  struct Range {
    std::int64_t batch, begin, end;
  };
  static std::vector<Range> gaps(std::vector<Range> covered, std::int64_t batches, std::int64_t size);
  static void clear(const TensorView& view, const Range& range);

  const Problem& problem_;
  std::int64_t covered_rows_ = 0;  // over all sequences: the statistics of the others follow theirs
  std::vector<Range> rows_, keys_;
};

}  // namespace fusion_attention::plan
