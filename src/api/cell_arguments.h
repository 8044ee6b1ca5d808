// What the acctransformer cell refuses, and in which words.
#pragma once

#include <cstdint>

#include "fusion_attention/families/flash_attention_cell.h"
#include "fusion_attention/tensor.h"

namespace fusion_attention {

// The constructor's words by themselves. Returns the width T of a tile.
std::int64_t check_words(const FlashAttentionCellOptions& options);

// query, key and value one by one: a tensor of query's dtype, of rank 4.
void check_operand(const char* argument, const Array& array, const Array& query);

// What must agree between them, and with the words.
void check_shapes(const Array& query, const Array& key, const Array& value,
                  const FlashAttentionCellOptions& options);

// Whether alibi_mask is there just if it may be, for that many keys.
void check_alibi(const FlashAttentionCellOptions& options, const TensorView& query, std::int64_t keys);

// attention_mask as [1 or B, ., .].
Array with_batch(const FlashAttentionCellOptions& options, std::int64_t batches);

// Whether that is one tile, in force on the diagonal, rather than a mask of every row and key.
bool is_tile(const Array& mask, std::int64_t tile, std::int64_t rows, std::int64_t keys);

}  // namespace fusion_attention
