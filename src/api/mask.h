// atten_mask as the documents shape it: a mask of the whole problem becomes an Overlay, a compressed one says
// nothing that its sparse_mode does not.
#pragma once

#include <cstdint>

#include "fusion_attention/families/array.h"
#include "fusion_attention/problem.h"
#include "problem/layout.h"

namespace fusion_attention {

constexpr std::int64_t kCompressed = 2048;  // rows and keys of the mask that modes 2, 3, 4, 7 and 8 ask for
constexpr std::int64_t kPrefixRows = 3072;  // rows of the one of mode 6

// All throw Error.
void check_mask_type(const char* argument, const Array& mask);
void check_compressed_mask(const Array& mask, std::int64_t mode);
Overlay overlay_of(const Array& mask, Layout layout, const Problem& problem);

// Whether the overlay keeps a pair that the band hides: the mask disagrees with the tokens or the prefix,
// of which the caller is told once. Reads the mask.
bool mask_exceeds_band(const Problem& problem);

}  // namespace fusion_attention
