// The machine table: the numbers that kernels are run with, each with its reason. Porting to another machine
// edits this table, never a loop.
#pragma once

#include <string_view>

#include "kernels/kernels.h"

namespace fusion_attention::plan {

// Blocking for a kernel row on problems of this depth. FUSION_ATTENTION_MACHINE=tiny gives the smallest legal
// numbers instead, so that small problems meet every block boundary (half of the random tests run on it).
kernels::Blocking blocking_for(const kernels::Row& row, std::int64_t depth, std::int64_t value_depth);

}  // namespace fusion_attention::plan
