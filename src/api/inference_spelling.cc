#include "api/inference_spelling.h"

#include <algorithm>
#include <iterator>

#include "api/refuse.h"

namespace fusion_attention {
namespace {

constexpr Spelling kSpellings[] = {
    {Interface::prompt_flash_attention, true, "num_heads", "num_key_value_heads", "scale_value", "attn_mask",
     "actual_seq_lengths", "actual_seq_lengths_kv", "deq_scale1", "quant_scale1", "deq_scale2",
     "quant_scale2", "quant_offset2"},
    {Interface::npu_prompt_flash_attention, false, "num_heads", "num_key_value_heads", "scale_value",
     "atten_mask", "actual_seq_lengths", "actual_seq_lengths_kv", "deq_scale1", "quant_scale1", "deq_scale2",
     "quant_scale2", "quant_offset2"},
};

}  // namespace

const Spelling& spelling_of(Interface interface) {
  const auto* found = std::find_if(std::begin(kSpellings), std::end(kSpellings),
                                   [interface](const Spelling& s) { return s.interface == interface; });
  if (found == std::end(kSpellings)) refuse("interface", name(interface), "an inference interface");
  return *found;
}

void Spelling::refuse_dtype(const char* argument, const Array& given, const std::string& allowed) const {
  const std::string dtype = std::string("dtype ") + name(given.element);
  if (mindspore) refuse_type(argument, dtype, allowed);
  refuse(argument, dtype, allowed);
}

void Spelling::refuse_form(const char* argument, const std::string& given, const std::string& allowed) const {
  if (mindspore) throw Error(ErrorKind::form, argument, given, allowed);
  refuse(argument, given, allowed);
}

}  // namespace fusion_attention
