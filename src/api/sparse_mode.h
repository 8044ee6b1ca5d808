// The mode table of npu_fusion_attention: sparse_mode, atten_mask and the tokens become one Band per sequence
// and at most one Overlay. No mode number survives past here.
#pragma once

#include <vector>

#include "fusion_attention/families/fusion_attention.h"
#include "fusion_attention/problem.h"
#include "problem/layout.h"

namespace fusion_attention {

// The band of a mode 0 to 8 as all families have it, before mode 6's prefix and the cuts of 7 and 8. Ends
// that hide nothing become infinite, so that a band which shows everything says so.
Band band_of(std::int64_t mode, std::int64_t pre, std::int64_t next, const Sequence& sequence);

// Sets the band of every sequence of `problem` and its overlay. Throws Error.
void apply_sparse_mode(const FusionAttentionOptions& options, Layout layout, Problem& problem);

// Whether `prefix` has a number within the documented range for every sequence. Mode 6 refuses any other;
// mode 5 then goes by the mask alone.
bool has_valid_prefix(const FusionAttentionOptions& options, const std::vector<Sequence>& sequences);

}  // namespace fusion_attention
