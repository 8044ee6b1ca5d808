#include "api/inference_spelling.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <utility>

#include "api/refuse.h"

namespace fusion_attention {
namespace {

constexpr std::int64_t kAll = InferenceOptions::kAllTokens;

constexpr Spelling kSpellings[] = {
    {Interface::prompt_flash_attention, true, false, 0, 1, "num_heads", "scale_value", "attn_mask",
     "actual_seq_lengths", "actual_seq_lengths_kv", "deq_scale1", "deq_scale2", "quant_scale2",
     "quant_offset2"},
    {Interface::npu_prompt_flash_attention, false, false, 0, 1, "num_heads", "scale_value", "atten_mask",
     "actual_seq_lengths", "actual_seq_lengths_kv", "deq_scale1", "deq_scale2", "quant_scale2",
     "quant_offset2"},
    {Interface::incre_flash_attention, false, true, kAll, 1, "num_heads", "scale_value", "attn_mask",
     "actual_seq_lengths", "actual_seq_lengths", "dequant_scale1", "dequant_scale2", "quant_scale2",
     "quant_offset2"},
    {Interface::npu_incre_flash_attention, false, true, kAll, 1, "num_heads", "scale_value", "atten_mask",
     "actual_seq_lengths", "actual_seq_lengths", "dequant_scale1", "dequant_scale2", "quant_scale2",
     "quant_offset2"},
    {Interface::npu_fused_infer_attention_score, false, true, kAll, 0, "num_heads", "scale", "atten_mask",
     "actual_seq_lengths", "actual_seq_lengths_kv", "dequant_scale1", "dequant_scale2", "quant_scale2",
     "quant_offset2"},
    {Interface::npu_fused_infer_attention_score_v2, false, true, kAll, 0, "num_query_heads", "softmax_scale",
     "atten_mask", "actual_seq_qlen", "actual_seq_kvlen", "dequant_scale1", "dequant_scale2",
     "quant_scale_out", "quant_offset_out"},
};

// Version 2's names of what version 1 calls antiquant.
constexpr std::pair<const char*, const char*> kVersion2[] = {
    {"key_antiquant_scale", "dequant_scale_key"},     {"key_antiquant_offset", "dequant_offset_key"},
    {"value_antiquant_scale", "dequant_scale_value"}, {"value_antiquant_offset", "dequant_offset_value"},
    {"key_antiquant_mode", "key_quant_mode"},         {"value_antiquant_mode", "value_quant_mode"},
};

}  // namespace

const Spelling& spelling_of(Interface interface) {
  const auto* found = std::find_if(std::begin(kSpellings), std::end(kSpellings),
                                   [interface](const Spelling& s) { return s.interface == interface; });
  if (found == std::end(kSpellings)) refuse("interface", name(interface), "an inference interface");
  return *found;
}

InferenceOptions::InferenceOptions(Interface of)
    : interface(of), next_tokens(spelling_of(of).next_tokens), inner_precise(spelling_of(of).inner_precise) {}

const char* Spelling::of(const char* word) const {
  if (interface == Interface::npu_fused_infer_attention_score_v2) {
    for (const auto& [first, second] : kVersion2)
      if (std::strcmp(word, first) == 0) return second;
  }
  // These interfaces have the stacked scales alone.
  if (is_incre() && std::strcmp(word, "key_antiquant_scale") == 0) return "antiquant_scale";
  return word;
}

void Spelling::refuse_dtype(const char* argument, const Array& given, const std::string& allowed) const {
  const std::string dtype = std::string("dtype ") + name(given.element);
  if (has_error_table) refuse_type(argument, dtype, allowed);
  refuse(argument, dtype, allowed);
}

void Spelling::refuse_form(const char* argument, const std::string& given, const std::string& allowed) const {
  if (has_error_table) throw Error(ErrorKind::form, argument, given, allowed);
  refuse(argument, given, allowed);
}

}  // namespace fusion_attention
