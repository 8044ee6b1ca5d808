// What the parts of validate() share.
#pragma once

#include <array>
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

// Sizes and strides of at least 0 whose products fit 64 bits with room to spare.
void check_view(const char* argument, const TensorView& view);
void check_shape(const char* argument, const TensorView& view, const std::array<std::int64_t, 4>& shape,
                 Dtype dtype);

bool is_empty(const TensorView& view);

// Bytes from the first to past the last element; refuses what no address space holds.
std::int64_t extent(const char* argument, const TensorView& view);

// The same of the dense mask, as far as a sequence reads it: its rows and keys are counted from the start of
// the sequence.
std::int64_t overlay_extent(const Problem& problem);

// The rejections of a cache: those of its tensors; then of one sequence's keys; then of the scales, which may
// be as many as there are keys.
void check_cache(const Problem& problem);
void check_cached_keys(const Problem& problem, const Sequence& sequence);
void check_scales(const Problem& problem);

// Whether key or value are anything else than plain tensors.
bool has_cache(const Problem& problem);

// The rejections of bias, dropout and sink. Expects shapes and sequences that have been checked.
void check_scores(const Problem& problem);

// Those of int8 operands: what they do not go with. Does nothing for others.
void check_integer(const Problem& problem);

}  // namespace fusion_attention
