// How the keys and values of a serving cache lie in memory, and how their numbers are read.
//
//   key j of a sequence, before the mask:
//     j < Sequence::prefix    row j of prefix_key, prefix_value
//     pages                   row (j − prefix) % P of page table[Sequence::page + (j − prefix) / P], P =
//     key.rows() otherwise               row Sequence::key + j − prefix of batch Sequence::batch
//
// A row is the channels of `key` and, behind them, those of `key_rope`, which lie alike. The result is that
// of the call on plain tensors with these rows, bit for bit.
#pragma once

#include <cstdint>

#include "fusion_attention/tensor.h"

namespace fusion_attention {

// key and value are pools [pages, Nkv, P, D]; each sequence reads its pages through a table.
struct Pages {
  const std::int32_t* table = nullptr;  // null: no pages
  std::int64_t entries = 0;             // of the table

  explicit operator bool() const { return table != nullptr; }
};

// x = (stored + offset)·scale in fp32, rounded once to the query's dtype. Both are views of one dtype with the
// axes of the tensor they belong to (pages and their rows, where there are pages), stride 0 where they
// broadcast; null data: scale 1, offset 0. `by_position`: [batch of the query, Nkv, keys behind the prefix, D]
// instead, whose row j − prefix is key j's, in a page or not.
struct Scaling {
  TensorView scale, offset;
  bool by_position = false;
};

// Forward only. key and value may be stored as int8 or int4, each with its Scaling; prefix_key and
// prefix_value are stored like them, [1, Nkv, rows, D], and scaled like their first batch entry and row.
// key_rope has the query's dtype and no scale.
struct Cache {
  Pages pages;
  TensorView prefix_key, prefix_value;
  TensorView key_rope;  // the last channels of every key row; those of a prefix: prefix_key_rope
  TensorView prefix_key_rope;
  Scaling key, value;

  bool has_prefix() const { return prefix_key.rows() != 0; }
  bool has_rope() const { return key_rope.channels() != 0; }
};

}  // namespace fusion_attention
