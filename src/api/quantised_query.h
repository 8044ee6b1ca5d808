// An int8 query over int8 keys and values beside rope channels: full quantisation of
// npu_fused_infer_attention_score_v2. Its document gives no arithmetic; ours is that of a cache: the call
// whose query is stored·scale in fp32, rounded once to the dtype of the rope channels, and all else as it is.
#pragma once

#include "api/copies.h"
#include "api/inference_spelling.h"
#include "problem/layout.h"

namespace fusion_attention {

struct QuantisedQuery {
  TensorView stored, scale;  // int8 [B, N, Sq, D], fp32 [B, N, Sq, 1]

  explicit operator bool() const { return stored.dtype == Dtype::int8; }
};

// The query that the call means: `query` itself or, of an int8 one with scales, that of the rope's dtype,
// without memory. Throws Error where one has scales and should not, or has none and should.
Array meant_query(const Spelling& spelling, const InferenceOptions& options, const Array& query,
                  const Array& key, const Array& value);

// `meant`: the view of meant_query. Empty unless that is another than `query`. Throws Error.
QuantisedQuery read_quantised_query(const InferenceOptions& options, const Array& query, Layout layout,
                                    const TensorView& meant);

// The numbers of `meant` in memory of `buffer`.
TensorView dequantised(const QuantisedQuery& query, const TensorView& meant, Buffer& buffer);

}  // namespace fusion_attention
