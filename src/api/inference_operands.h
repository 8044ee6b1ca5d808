// query, key and value of the inference interfaces: layouts that may transpose, declared heads, lengths per
// batch entry. All throw Error.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "api/inference_spelling.h"
#include "problem/layout.h"

namespace fusion_attention {

// What a layout string of theirs says: BNSD_BSND reads BNSD and writes BSND.
struct InferenceLayout {
  Layout input, output;
};
InferenceLayout inference_layout(const Spelling& spelling, const std::string& letters);

void check_inference_operands(const Spelling& spelling, const Array& query, const Array& key,
                              const Array& value, Layout layout);

// Sets query, key and value of `problem`.
void read_inference_operands(const Spelling& spelling, const InferenceOptions& options, Layout layout,
                             const Array& query, const Array& key, const Array& value, Problem& problem);

// One per batch entry, or per cumulative end of TND.
std::vector<Sequence> inference_sequences(const Spelling& spelling, const InferenceOptions& options,
                                          Layout layout, const Problem& problem);

}  // namespace fusion_attention
