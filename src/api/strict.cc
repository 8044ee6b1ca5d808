#include "fusion_attention/families/strict.h"

#include <array>
#include <cstring>
#include <span>

#include "api/inference_limits.h"
#include "api/lengths.h"
#include "api/limits.h"
#include "api/operands.h"
#include "api/refuse.h"
#include "api/strict.h"
#include "base/environment.h"

namespace fusion_attention {
namespace {

constexpr std::array kNames = {"npu_fusion_attention",
                               "mindspeed",
                               "ascend_flash_attention",
                               "npu_flash_attention",
                               "npu_ring_attention_update",
                               "flash_attention_cell",
                               "prompt_flash_attention",
                               "npu_prompt_flash_attention",
                               "incre_flash_attention",
                               "npu_incre_flash_attention",
                               "npu_fused_infer_attention_score",
                               "npu_fused_infer_attention_score_v2"};

template <class Row>
void add_rows(std::span<const Row> table, std::vector<DocumentedLimit>& rows) {
  for (const Row& limit : table) {
    const LimitText& text = limit.text;
    DocumentedLimit row{text.key, {}, text.argument, text.allowed, text.source};
    for (std::size_t i = 0; i < kNames.size(); ++i)
      if (text.applies(static_cast<Interface>(i))) row.interfaces.push_back(static_cast<Interface>(i));
    rows.push_back(std::move(row));
  }
}

}  // namespace

const char* name(Interface interface) {
  return kNames[static_cast<std::size_t>(interface)];
}

std::optional<Interface> interface_of(const std::string& name) {
  for (std::size_t i = 0; i < kNames.size(); ++i)
    if (name == kNames[i]) return static_cast<Interface>(i);
  return std::nullopt;
}

std::vector<DocumentedLimit> documented_limits() {
  std::vector<DocumentedLimit> rows;
  add_rows(limits(), rows);
  add_rows(inference_limits(), rows);
  add_rows(decode_limits(), rows);
  return rows;
}

bool is_strict(std::optional<bool> chosen) {
  if (chosen) return *chosen;
  const char* variable = "FUSION_ATTENTION_STRICT";
  const char* value = environment(variable);
  if (!value || std::strcmp(value, "0") == 0) return false;
  if (std::strcmp(value, "1") == 0) return true;
  warn_ignored(variable, value, "0 or 1");
  return false;
}

void refuse_undocumented(Interface interface, const LimitedCall& call) {
  for (const Limit& limit : limits()) {
    if (!limit.text.applies(interface)) continue;
    if (const Refused given = limit.broken(call)) refuse_limit(limit.text, interface, *given);
  }
}

void refuse_undocumented(Interface interface, Pass pass, const Array& query, const Array& key,
                         const Array& value, const FusionAttentionOptions& options) {
  const Layout layout = layout_of(options.input_layout);
  for (const auto& [argument, array] :
       {std::pair{"query", &query}, std::pair{"key", &key}, std::pair{"value", &value}})
    check_operand(argument, *array, query, layout);
  Problem problem;
  problem.pass = pass;
  problem.query = query_view(query, layout, options.head_num);
  problem.key = key_view(key, layout, problem.query);
  problem.value = value_view(value, layout, problem.key);
  const TensorView& q = problem.query;
  const bool packed = layout == Layout::tnd && options.actual_seq_qlen;
  problem.sequences = packed ? packed_sequences(options, q.rows(), problem.key.rows())
                             : dense_sequences(options, layout, q.batches(), q.rows(), problem.key.rows());
  refuse_undocumented(interface, {pass, layout, query, key, value, options, problem});
}

}  // namespace fusion_attention
