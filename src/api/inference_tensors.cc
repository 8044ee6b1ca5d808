#include "api/inference_tensors.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "api/refuse.h"

namespace fusion_attention {
namespace {

bool has_elements(const Array& array) {
  return array && array.rank <= Array::kMaxRank &&
         std::find(array.shape.begin(), array.shape.begin() + array.rank, 0) ==
             array.shape.begin() + array.rank;
}

bool is_aligned(const Array& array) {
  const auto size = static_cast<std::uintptr_t>(size_of(array.element));
  return size == 0 || reinterpret_cast<std::uintptr_t>(array.data) % size == 0;
}

}  // namespace

const char* check_tensors(const Spelling& spelling, const Array& query, const Array& key, const Array& value,
                          const InferenceOptions& options) {
  const StoredKeys& stored = options.stored;
  const std::pair<const char*, const Array*> tensors[] = {
      {"query", &query},
      {"key", &key},
      {"value", &value},
      {spelling.atten_mask, &options.atten_mask},
      {"pse_shift", &options.pse_shift},
      {spelling.deq_scale1, &options.deq_scale1},
      {"quant_scale1", &options.quant_scale1},
      {spelling.deq_scale2, &options.deq_scale2},
      {spelling.quant_scale2, &options.quant_scale2},
      {spelling.quant_offset2, &options.quant_offset2},
      {"dequant_scale_query", &options.dequant_scale_query},
      {"learnable_sink", &options.learnable_sink},
      {"block_table", &stored.block_table},
      {"key_shared_prefix", &stored.key_shared_prefix},
      {"value_shared_prefix", &stored.value_shared_prefix},
      {"query_rope", &stored.query_rope},
      {"key_rope", &stored.key_rope},
      {"query_padding_size", &stored.query_padding_size},
      {"kv_padding_size", &stored.kv_padding_size},
      {"antiquant_scale", &stored.antiquant_scale},
      {"antiquant_offset", &stored.antiquant_offset},
      {spelling.of("key_antiquant_scale"), &stored.key_antiquant_scale},
      {spelling.of("key_antiquant_offset"), &stored.key_antiquant_offset},
      {spelling.of("value_antiquant_scale"), &stored.value_antiquant_scale},
      {spelling.of("value_antiquant_offset"), &stored.value_antiquant_offset},
  };
  const char* without_memory = nullptr;
  for (const auto& [argument, tensor] : tensors) {
    if (!has_elements(*tensor)) continue;
    if (!tensor->data && !without_memory) without_memory = argument;
    if (!is_aligned(*tensor)) refuse(argument, "a misaligned pointer", "one aligned to its element");
  }
  return without_memory;
}

}  // namespace fusion_attention
