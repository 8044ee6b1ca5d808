// The gradient of slopes, −Σ dS·distance over all pairs of a head. The kernels make no such sum, so the
// distances become a dense bias of N·Σ Sq·Skv floats, and its gradient as many: for training slopes, not for
// long rows.
#pragma once

#include <cstdint>

#include "api/copies.h"
#include "fusion_attention/problem.h"

namespace fusion_attention {

// Memory of one call.
struct SlopeCopies {
  Buffer bias, gradient;
};

// The same problem with its slopes written out, and a gradient for them.
Problem with_dense_slopes(const Problem& problem, SlopeCopies& copies);

// After the run of `dense`: the gradient of each of the `count` slopes, contiguous, [sequences, N] or [N].
void sum_slope_gradient(const Problem& problem, const Problem& dense, std::int64_t count, float* gradient);

}  // namespace fusion_attention
