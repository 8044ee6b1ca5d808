// Which kernel row computes a problem, and why every other does not.
#pragma once

#include <string>
#include <vector>

#include "fusion_attention/tensor.h"
#include "kernels/kernels.h"

namespace fusion_attention::plan {

struct Candidate {
  const kernels::Row* row;
  double rate;              // measured flops per second; 0 when it was not measured
  std::string passed_over;  // why not; empty for the chosen one
};

// The row with the highest rate, of those that this CPU and the environment allow. Throws Error when
// FUSION_ATTENTION_KERNEL names a row that does not exist or cannot serve here. The value is the name of a
// row or of an arch ("avx2"), which then serves every pass. Remembered until the environment changes.
const kernels::Row& choose(kernels::Algorithm algorithm, Dtype dtype);

// The same choice with all its reasons, in the order of the list.
std::vector<Candidate> weigh(kernels::Algorithm algorithm, Dtype dtype);

const char* name(kernels::Algorithm algorithm);  // "forward", "decode", "backward", "integer"

// Whether the row's instruction set may be used here and now, and why not.
std::string refused(const kernels::Row& row);

}  // namespace fusion_attention::plan
