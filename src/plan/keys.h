// Where the keys and values of a sequence lie, for the kernels that read them.
#pragma once

#include "fusion_attention/problem.h"
#include "kernels/kernels.h"

namespace fusion_attention::plan {

// The part of a view that belongs to one sequence; `first` is its first row (key) on the row axis.
kernels::Operand operand(const TensorView& view, const Sequence& s, std::int64_t first);

kernels::KeySource key_source(const Problem& problem, const Sequence& s);
kernels::KeySource value_source(const Problem& problem, const Sequence& s);

}  // namespace fusion_attention::plan
