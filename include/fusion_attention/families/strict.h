// Strict mode: what the documents of the hardware do not support is refused, although this library computes
// it, so that a port can be checked before it meets an NPU. Off by default.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "fusion_attention/families/array.h"
#include "fusion_attention/families/fusion_attention.h"

namespace fusion_attention {

enum class Interface : std::uint8_t {
  npu_fusion_attention,                // torch_npu, versions 1 to 3 and their gradients
  mindspeed,                           // mindspeed.ops.fusion_attention_v2 and its gradient
  ascend_flash_attention,              // ascendspeed.te.ops
  npu_flash_attention,                 // ascendspeed.ops, its gradient and FlashAttention
  npu_ring_attention_update,           // mindspeed.ops and torch_npu
  flash_attention_cell,                // acctransformer
  prompt_flash_attention,              // mindspore.ops
  npu_prompt_flash_attention,          // torch_npu
  incre_flash_attention,               // mindspore.ops
  npu_incre_flash_attention,           // torch_npu
  npu_fused_infer_attention_score,     // torch_npu
  npu_fused_infer_attention_score_v2,  // torch_npu
};

const char* name(Interface interface);                           // "npu_fusion_attention"
std::optional<Interface> interface_of(const std::string& name);  // the inverse

// One row of the table, for the documentation and for tests.
struct DocumentedLimit {
  const char* key;  // a name of the row
  std::vector<Interface> interfaces;
  const char* argument;
  const char* allowed;
  const char* source;
};
std::vector<DocumentedLimit> documented_limits();

// What the caller chose, or else whether FUSION_ATTENTION_STRICT is 1.
bool is_strict(std::optional<bool> chosen);

// For interfaces that hand their words on to another one: checks the limits of their own document, whether
// strict mode is on or not. `options` holds what was given, in that interface's types (a float16 mask may
// stand in atten_mask). npu_ring_attention_update: query is prev_attn_out, key and value the same. Throws
// Error: the argument, what was given, the documented limit and where it is documented.
void refuse_undocumented(Interface interface, Pass pass, const Array& query, const Array& key,
                         const Array& value, const FusionAttentionOptions& options);

}  // namespace fusion_attention
