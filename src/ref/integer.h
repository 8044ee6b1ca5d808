// The reference of int8 operands: integer.h in plain loops, every rounding where it says.
#pragma once

#include <cstdint>
#include <vector>

#include "fusion_attention/problem.h"

namespace fusion_attention::ref {

struct IntegerRow {
  bool nothing = true;  // no visible score is above −∞
  double max = 0, sum = 0;
  std::vector<double> out;  // y by channel, halves
};

// Query head n, local row i of a sequence.
IntegerRow integer_row(const Problem& problem, const Sequence& sequence, std::int64_t n, std::int64_t i);

}  // namespace fusion_attention::ref
