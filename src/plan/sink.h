// The gradient of the sinks, which needs no scores: O(rows·Dv) beside a backward of O(rows·keys·D).
#pragma once

#include <cstdint>
#include <vector>

#include "fusion_attention/problem.h"

namespace fusion_attention::plan {

// dsink(n) = −Σ over rows of exp(sink − max) / sum · Δ, with Δ = Σ dO∘O, in double and in the order of
// sequences and rows. rows_before: of each sequence, the rows of those before it.
void sink_gradient(const Problem& problem, const std::vector<std::int64_t>& rows_before);

}  // namespace fusion_attention::plan
