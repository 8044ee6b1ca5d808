// The table of strict mode: one row per documented limit that this library does not have.
#pragma once

#include <optional>
#include <span>
#include <string>

#include "fusion_attention/families/strict.h"
#include "fusion_attention/problem.h"
#include "problem/layout.h"

namespace fusion_attention {

// What the limits speak of: a call that has been read and found right. `problem` has the views without rope,
// the sequences and, of npu_fusion_attention, the bands and the overlay.
struct LimitedCall {
  Pass pass;
  Layout layout;
  const Array &query, &key, &value;
  const FusionAttentionOptions& options;
  const Problem& problem;
};

// What was given, where the limit refuses the call.
using Refused = std::optional<std::string>;

struct Limit {
  const char* key;      // one name per row, in documents and tests
  unsigned interfaces;  // bit i: Interface i
  const char* argument;
  const char* allowed;
  const char* source;
  Refused (*broken)(const LimitedCall& call);
};

std::span<const Limit> limits();

}  // namespace fusion_attention
