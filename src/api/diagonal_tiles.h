// A block band of which the tiles on the diagonal have a mask of their own, in memory of the size of the
// operands: three problems over the same rows, whose keys are those of the tiles before, on and after the
// diagonal.
#pragma once

#include <cstdint>
#include <vector>

#include "fusion_attention/problem.h"

namespace fusion_attention {

// whole: one sequence per batch entry, under a band of blocks of `tile`, with no bias or one that is the same
// for all rows (float32). mask: [tile, tile], added to the scaled scores of every tile of the diagonal. bias:
// memory for what the problems refer to. A problem that no row takes part in is left out; the diagonal never
// is.
std::vector<Problem> split_at_diagonal(const Problem& whole, std::int64_t tile,
                                       const std::vector<float>& mask, std::vector<float>& bias);

}  // namespace fusion_attention
