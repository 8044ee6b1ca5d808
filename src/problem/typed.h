// From a dtype of run time to a type of compile time.
#pragma once

#include "base/half.h"
#include "fusion_attention/tensor.h"

namespace fusion_attention {

// work(T{}) for the floating point element T of that name; other dtypes do not occur where it is asked for.
template <class Work>
auto with_floating_type(Dtype dtype, const Work& work) {
  if (dtype == Dtype::float16) return work(f16{});
  if (dtype == Dtype::bfloat16) return work(bf16{});
  return work(float{});
}

}  // namespace fusion_attention
