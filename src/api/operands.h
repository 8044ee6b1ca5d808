// query, key, value, their rope parts and what has attention_out's shape: from the caller's layout letters to
// views. All throw Error.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "fusion_attention/families/array.h"
#include "fusion_attention/problem.h"
#include "problem/layout.h"

namespace fusion_attention {

Layout layout_of(const std::string& letters);
void check_operand(const char* argument, const Array& array, const Array& query, Layout layout);
TensorView query_view(const Array& query, Layout layout, std::int64_t head_num);
TensorView key_view(const Array& key, Layout layout, const TensorView& query);
TensorView value_view(const Array& value, Layout layout, const TensorView& key);

// query_rope and key_rope: more channels of query and key, which lie in tensors of their own.
struct Rope {
  TensorView query, key;

  std::int64_t channels() const { return query.channels(); }
  explicit operator bool() const { return channels() > 0; }
};
Rope read_rope(const Array& query_rope, const Array& key_rope, const Array& query, Layout layout,
               const Problem& problem);

// Of an array whose rank is at most kMaxRank.
bool has_shape(const Array& array, const std::vector<std::int64_t>& shape);
std::int64_t count(const Array& array);
bool is_contiguous(const Array& array);

void check_statistics(const char* argument, const Array& array, const std::vector<std::int64_t>& shape);

}  // namespace fusion_attention
