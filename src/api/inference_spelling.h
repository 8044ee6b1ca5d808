// How each inference interface spells its arguments, what it takes for those that are not given, and which
// exception its document asks for.
#pragma once

#include <cstdint>
#include <string>

#include "fusion_attention/families/inference.h"

namespace fusion_attention {

struct Spelling {
  Interface interface;
  // Its document (seed 004 of docs/features.md) lists errors: what it lists is always refused, and types,
  // forms and values are told apart. Elsewhere every size and dtype that this library computes is accepted
  // and every refusal is a value.
  bool has_error_table;
  bool decodes;  // keys and values may be stored in pages, in int8, behind a prefix: StoredKeys
  std::int64_t next_tokens, inner_precise;  // where the caller gives none
  const char *num_heads, *scale, *atten_mask, *actual_seq_lengths, *actual_seq_lengths_kv, *deq_scale1,
      *deq_scale2, *quant_scale2, *quant_offset2;

  // A word of StoredKeys as this interface spells it.
  const char* of(const char* word) const;
  bool is_incre() const {  // whose query has one row, and whose lengths are those of the keys
    return interface == Interface::incre_flash_attention || interface == Interface::npu_incre_flash_attention;
  }

  [[noreturn]] void refuse_dtype(const char* argument, const Array& given, const std::string& allowed) const;
  [[noreturn]] void refuse_form(const char* argument, const std::string& given,
                                const std::string& allowed) const;
};

const Spelling& spelling_of(Interface interface);  // of an inference interface

}  // namespace fusion_attention
