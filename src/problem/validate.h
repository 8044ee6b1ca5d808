#pragma once

#include <cstdint>
#include <vector>

#include "fusion_attention/problem.h"

namespace fusion_attention {

// What validate() leaves to the moment of running: every tensor that is not empty has memory, aligned to its
// element, and no output shares bytes with another tensor.
void validate_memory(const Problem& problem);

// Appends the entries of the table that a sequence reads, from its first page on; 0 for pages that its band
// hides from every row. Throws Error on an entry that is no page. Each entry is read once: what is appended
// is what was checked, whoever writes the table.
void append_pages(const Problem& problem, const Sequence& sequence, std::vector<std::int32_t>& out);

}  // namespace fusion_attention
