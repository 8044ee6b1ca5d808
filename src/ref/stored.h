// One number of a key or a value, wherever it is stored: local key j of a sequence, kv head n, channel c.
#pragma once

#include <cstdint>

#include "fusion_attention/problem.h"

namespace fusion_attention::ref {

double key_number(const Problem& problem, const Sequence& sequence, std::int64_t n, std::int64_t j,
                  std::int64_t c);
double value_number(const Problem& problem, const Sequence& sequence, std::int64_t n, std::int64_t j,
                    std::int64_t c);

}  // namespace fusion_attention::ref
