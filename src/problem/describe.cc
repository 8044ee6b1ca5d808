// Names, and the smallest problem of given sizes.
#include "problem/contiguous.h"

namespace fusion_attention {

const char* name(Dtype dtype) {
  constexpr const char* kNames[] = {"fp32", "fp16", "bf16", "int8", "int4"};
  return kNames[static_cast<int>(dtype)];
}

Problem dense_problem(Pass pass, Dtype dtype, std::int64_t batches, std::int64_t heads, std::int64_t kv_heads,
                      std::int64_t rows, std::int64_t keys, std::int64_t depth, std::int64_t value_depth,
                      double scale, const Band& band) {
  Problem problem;
  problem.pass = pass;
  problem.scale = scale;
  problem.query = contiguous_view(dtype, {batches, heads, rows, depth});
  problem.key = contiguous_view(dtype, {batches, kv_heads, keys, depth});
  problem.value = contiguous_view(dtype, {batches, kv_heads, keys, value_depth});
  problem.output =
      contiguous_view(dtype == Dtype::int8 ? Dtype::float16 : dtype, {batches, heads, rows, value_depth});
  if (pass == Pass::backward) {
    problem.output_gradient = problem.output;
    problem.query_gradient = problem.query;
    problem.key_gradient = problem.key;
    problem.value_gradient = problem.value;
  }
  for (std::int64_t batch = 0; batch < batches; ++batch)
    problem.sequences.push_back({.batch = batch, .rows = rows, .keys = keys, .band = band});
  return problem;
}

}  // namespace fusion_attention
