// How the inference documents say where keys and values lie: pages, shared prefix, rope, padding on the left,
// int8 and int4 with their scales. Part of the options of an inference call (families/inference.h).
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "fusion_attention/families/array.h"

namespace fusion_attention {

// In the spelling of npu_fused_infer_attention_score, with its defaults. Int4 comes as int32, eight numbers
// in each, the first in the lowest bits.
struct StoredKeys {
  Array block_table;            // int32 [B, pages of the longest sequence]
  std::int64_t block_size = 0;  // keys of a page

  Array key_shared_prefix, value_shared_prefix;  // in key's layout with one batch entry
  std::optional<std::vector<std::int64_t>> actual_shared_prefix_len;

  Array query_rope, key_rope;                 // more channels of query and key
  Array query_padding_size, kv_padding_size;  // int64, one number

  Array antiquant_scale, antiquant_offset;  // of key and value, stacked
  std::int64_t antiquant_mode = 0;          // 0 per tensor or channel, 1 per token
  Array key_antiquant_scale, key_antiquant_offset;
  Array value_antiquant_scale, value_antiquant_offset;
  std::int64_t key_antiquant_mode = 0, value_antiquant_mode = 0;  // 0 … 5: api/antiquant.h
};

}  // namespace fusion_attention
