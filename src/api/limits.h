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

struct LimitText {
  const char* key;      // one name per row, in documents and tests
  unsigned interfaces;  // bit i: Interface i
  const char* argument;
  const char* allowed;
  const char* source;

  bool applies(Interface interface) const {
    return (interfaces >> static_cast<unsigned>(interface) & 1U) != 0;
  }
};
constexpr unsigned bit(Interface interface) {
  return 1U << static_cast<unsigned>(interface);
}

struct Limit {
  LimitText text;
  Refused (*broken)(const LimitedCall& call);
};

std::span<const Limit> limits();

// Throws Error: what was given, the limit and where it is documented.
[[noreturn]] void refuse_limit(const LimitText& limit, Interface interface, const std::string& given);

// --- What was given, where a number or a truth is outside ---

Refused outside(const char* what, std::int64_t given, std::int64_t low, std::int64_t high);
Refused where(bool refused, std::string given);

}  // namespace fusion_attention
