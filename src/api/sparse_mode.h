// The mode table of npu_fusion_attention: sparse_mode, atten_mask and the tokens become one Band per sequence
// and at most one Overlay. No mode number survives past here.
#pragma once

#include <vector>

#include "fusion_attention/families/fusion_attention.h"
#include "fusion_attention/problem.h"
#include "problem/layout.h"

namespace fusion_attention {

// The band of rows i that see keys i + lo … i + hi. Ends that hide nothing become infinite, so that a band
// which shows everything says so.
Band trimmed(std::int64_t lo, std::int64_t hi, const Sequence& sequence);

// Sets the band of every sequence of `problem` and its overlay. Throws Error.
void apply_sparse_mode(const FusionAttentionOptions& options, Layout layout, Problem& problem);

// Whether `prefix` has a number within the documented range for every sequence. Mode 6 refuses any other;
// mode 5 then goes by the mask alone.
bool has_valid_prefix(const FusionAttentionOptions& options, const std::vector<Sequence>& sequences);

}  // namespace fusion_attention
