// Strict mode of the inference interfaces: their rows of the table.
#pragma once

#include <span>

#include "api/inference_operands.h"
#include "api/limits.h"

namespace fusion_attention {

// A call that has been read and found right.
struct InferenceCall {
  const InferenceLayout& layouts;
  const Array &query, &key, &value;
  const InferenceOptions& options;
  const Problem& problem;
};

// Channels that the hardware copies as one piece, 32 bytes: 16 halves, 32 int8, 64 int4.
inline std::int64_t aligned_channels(const InferenceCall& call) {
  if (call.problem.key.dtype == Dtype::int4) return 64;
  return call.problem.key.dtype == Dtype::int8 ? 32 : 16;
}

inline bool packed(const InferenceCall& call) {
  return is_packed(call.layouts.input);
}

struct InferenceLimit {
  LimitText text;
  Refused (*broken)(const InferenceCall& call);
};

std::span<const InferenceLimit> inference_limits();  // of the prompt operators
std::span<const InferenceLimit> decode_limits();

// Throws Error for the first row that refuses the call.
void refuse_undocumented(const InferenceCall& call);

}  // namespace fusion_attention
