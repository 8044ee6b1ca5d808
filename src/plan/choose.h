// Which kernel row computes a problem, and why every other does not.
#pragma once

#include <string>
#include <vector>

#include "fusion_attention/problem.h"
#include "kernels/kernels.h"

namespace fusion_attention::plan {

struct Candidate {
  const kernels::Row* row;
  double rate;              // measured flops per second; 0 when it was not measured
  std::string passed_over;  // why not; empty for the chosen one
};

// Throws Error when FUSION_ATTENTION_KERNEL names a row that does not exist or cannot run here. The value is
// the name of a row, or of an arch ("avx2"), which then serves every pass.
const kernels::Row& choose(const Problem& problem);

// The same choice with all its reasons, in the order of the list.
std::vector<Candidate> weigh(const Problem& problem);

// Whether the row's instruction set may be used here and now, and why not.
std::string refused(const kernels::Row& row);

}  // namespace fusion_attention::plan
