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

void check_inference_operands(const Spelling& spelling, const InferenceOptions& options, const Array& query,
                              const Array& key, const Array& value, Layout layout);

// The documents' Q_S = 1.
bool has_one_row(Layout layout, const TensorView& query);

// Q_S = 1 without rope: sparse_mode, the tokens and the query's lengths say nothing there.
bool ignores_mode(const Spelling& spelling, const InferenceOptions& options, Layout layout,
                  const TensorView& query);

// Where heads are merged `heads` must divide the last axis; elsewhere the array says how many there are.
TensorView view_with_heads(const char* argument, const Array& array, Layout layout, const char* heads_name,
                           std::int64_t heads);

// Sets query, key and value of `problem`.
void read_inference_operands(const Spelling& spelling, const InferenceOptions& options, Layout layout,
                             const Array& query, const Array& key, const Array& value, Problem& problem);

// One per batch entry, or per cumulative end of a packed layout; in pages the lengths of the keys are no
// ends.
std::vector<Sequence> inference_sequences(const Spelling& spelling, const InferenceOptions& options,
                                          Layout layout, const Problem& problem);

}  // namespace fusion_attention
