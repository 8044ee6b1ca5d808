// The mode table of npu_fusion_attention: sparse_mode, atten_mask and the tokens become one Band per sequence
// and at most one Overlay. No mode number survives past here.
#pragma once

#include <string>

#include "fusion_attention/families/fusion_attention.h"
#include "fusion_attention/problem.h"
#include "problem/layout.h"

namespace fusion_attention {

// Sets the band of every sequence of `problem` and its overlay. Throws Error.
void apply_sparse_mode(const FusionAttentionOptions& options, Layout layout, Problem& problem);

// Whether the overlay keeps a pair that the band hides: the mask and the tokens disagree (ruling 1). Reads
// the mask.
bool mask_exceeds_band(const Problem& problem);

}  // namespace fusion_attention
