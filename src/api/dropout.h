// keep_prob, dropout_mask, seed and offset of the documents become Problem::dropout and a Plane per sequence.
#pragma once

#include <cstdint>

#include "fusion_attention/families/fusion_attention.h"
#include "fusion_attention/problem.h"
#include "problem/layout.h"

namespace fusion_attention {

// `numels`: how many scores there are, of which each has a bit. Throws Error.
void apply_dropout(const FusionAttentionOptions& options, Layout layout, std::int64_t numels,
                   Problem& problem);

}  // namespace fusion_attention
