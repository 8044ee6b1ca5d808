// The scores of the reference and what joins them, one number at a time: bias, sink, dropout.
//
// Indices: query head n, local row i and local key j of a sequence.
#pragma once

#include <array>
#include <cstdint>

#include "fusion_attention/problem.h"

namespace fusion_attention::ref {

// Where the bias has its number for the pair: of the pair itself, or its slope.
std::int64_t bias_place(const Problem& problem, const Sequence& sequence, std::int64_t n, std::int64_t i,
                        std::int64_t j);

// What that number is multiplied by in the score of the pair: 1, or minus the distance that a slope weighs.
double bias_factor(const Problem& problem, const Sequence& sequence, std::int64_t i, std::int64_t j);

// scale·q·k + bias, or scale·(q·k + bias).
double score(const Problem& problem, const Sequence& sequence, std::int64_t n, std::int64_t i,
             std::int64_t j);

// Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3. SC 2011).
std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key);

bool kept(const Dropout& dropout, std::int64_t e);

// kept / keep_prob of the pair; 1 without dropout.
double kept_factor(const Problem& problem, const Sequence& sequence, std::int64_t n, std::int64_t i,
                   std::int64_t j);

}  // namespace fusion_attention::ref
