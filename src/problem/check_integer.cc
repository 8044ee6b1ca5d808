// Every rejection of int8 operands beyond those of any problem.
#include <cmath>

#include "problem/check.h"

namespace fusion_attention {

void check_integer(const Problem& p) {
  if (p.query.dtype == Dtype::int4) refuse("query", "dtype int4", "fp32, fp16, bf16 or int8");
  if (p.query.dtype != Dtype::int8) return;
  constexpr std::int64_t kMostChannels = 131071;  // times 2^14 the int32 of a score is full
  if (p.pass == Pass::backward) refuse("query", "int8 in a backward", "a floating point dtype");
  if (p.query.channels() > kMostChannels)
    refuse("query", "D = " + std::to_string(p.query.channels()), "at most 131071 channels of int8");
  if (!p.output_scaling && p.output.dtype != Dtype::float16)
    refuse("output", std::string("dtype ") + name(p.output.dtype),
           "fp16 for int8 operands, or int8 with output_scaling");
  const struct {
    const char* argument;
    float scale;
  } scales[] = {{"integer.score_scale", p.integer.score_scale},
                {"integer.weight_scale", p.integer.weight_scale},
                {"integer.value_scale", p.integer.value_scale}};
  for (const auto& [argument, scale] : scales)
    if (!std::isfinite(scale)) refuse(argument, std::to_string(scale), "a finite number");
  if (p.bias && (p.bias.kind != BiasKind::dense || p.bias.before_scale || p.bias.last_rows != 0))
    refuse("bias", "slopes, a bias before the scale or one of last rows",
           "a dense bias after the scale for int8 operands");
  if (has_cache(p)) refuse("cache", "int8 operands", "floating point operands");
  if (p.dropout) refuse("dropout", "int8 operands", "floating point operands");
  if (p.sink) refuse("sink", "int8 operands", "floating point operands");
}

}  // namespace fusion_attention
