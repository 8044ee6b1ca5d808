#pragma once

#include "fusion_attention/problem.h"

namespace fusion_attention {

// What validate() leaves to the moment of running: every tensor that is not empty has memory, aligned to its
// element, and no output shares bytes with another tensor.
void validate_memory(const Problem& problem);

}  // namespace fusion_attention
