// Rows and keys that belong to no sequence: zero output, zero gradients, statistics (−FLT_MAX, 1).
#pragma once

#include "fusion_attention/problem.h"

namespace fusion_attention::plan {

// `rows`: the sum over all sequences, after which the statistics of no row are left unwritten.
void fill_uncovered(const Problem& problem, std::int64_t rows);

}  // namespace fusion_attention::plan
