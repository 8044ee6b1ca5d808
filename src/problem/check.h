// What the parts of validate() share.
#pragma once

#include <cstdint>
#include <string>

#include "fusion_attention/error.h"
#include "fusion_attention/problem.h"

namespace fusion_attention {

// The most bytes, and the largest index, that anything may reach: a little more still fits 64 bits.
inline constexpr std::int64_t kMost = std::int64_t{1} << 62;

[[noreturn]] inline void refuse(const std::string& argument, const std::string& given,
                                const std::string& allowed) {
  throw Error(ErrorKind::value, argument, given, allowed);
}

// The rejections of bias, dropout and sink. Expects shapes and sequences that have been checked.
void check_scores(const Problem& problem);

// Those of int8 operands: what they do not go with. Does nothing for others.
void check_integer(const Problem& problem);

}  // namespace fusion_attention
