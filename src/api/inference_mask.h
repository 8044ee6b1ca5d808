// sparse_mode, atten_mask and the tokens of the inference interfaces, in formulas on the rows Lq and the keys
// Lk that take part in each sequence, a shared prefix among the keys. No mode number survives past here.
#pragma once

#include <cstdint>

#include "api/copies.h"
#include "api/inference_spelling.h"
#include "problem/layout.h"

namespace fusion_attention {

// Sets the band of every sequence of `problem` and its overlay, which lies over the padded tensors; of a
// float16 mask and of a tree (mode 9) the overlay has no memory until it is copied. `keys`: the longest row
// of keys that a mask describes. Throws Error.
void apply_inference_mask(const Spelling& spelling, const InferenceOptions& options, Layout layout,
                          std::int64_t keys, Problem& problem);

// A float16 mask as bytes: [1 or B, 1, Sq, Skv] of `mask`, any of its three ranks.
Overlay mask_of_halves(const Array& mask, Buffer& buffer);

}  // namespace fusion_attention
