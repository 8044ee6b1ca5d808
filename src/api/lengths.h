// Where each attention problem lies inside the tensors: one per batch entry of a dense layout, one per pair
// of entries of the cumulative lists of a packed one.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "fusion_attention/families/fusion_attention.h"
#include "fusion_attention/problem.h"
#include "problem/layout.h"

namespace fusion_attention {

// Cumulative ends as the caller spells them.
struct Ends {
  const char* argument;
  const std::optional<std::vector<std::int64_t>>& list;
};

// rows, keys: T of query and of key. Throws Error.
std::vector<Sequence> packed_sequences(const Ends& query, const Ends& key, std::int64_t rows,
                                       std::int64_t keys);
std::vector<Sequence> packed_sequences(const FusionAttentionOptions& options, std::int64_t rows,
                                       std::int64_t keys);

// Throws Error when lengths are given: no other layout has them.
std::vector<Sequence> dense_sequences(const FusionAttentionOptions& options, Layout layout,
                                      std::int64_t batches, std::int64_t rows, std::int64_t keys);

}  // namespace fusion_attention
