#include "api/quantised_query.h"

#include <string>
#include <utility>

#include "api/operands.h"
#include "api/refuse.h"
#include "base/half.h"
#include "base/parallel.h"
#include "fusion_attention/run.h"
#include "problem/typed.h"

namespace fusion_attention {
namespace {

constexpr std::int64_t kPerTokenAndHead = 3;  // as key_quant_mode numbers it

void check_unquantised(const InferenceOptions& options) {
  if (options.dequant_scale_query) refuse("dequant_scale_query", "a tensor", "None but for an int8 query");
  if (options.query_quant_mode != 0)
    refuse("query_quant_mode", number(options.query_quant_mode), "0 but for an int8 query");
  if (options.out_dtype) refuse("out_dtype", name(*options.out_dtype), "None but for an int8 query");
}

void check_quantised(const InferenceOptions& options, const Array& key, const Array& value) {
  const Array &scale = options.dequant_scale_query, &rope = options.stored.query_rope;
  if (!scale) refuse("dequant_scale_query", "None", "a tensor for an int8 query");
  if (scale.element != Element::float32)
    refuse("dequant_scale_query", std::string("dtype ") + name(scale.element), "float32");
  if (options.query_quant_mode != kPerTokenAndHead)
    refuse("query_quant_mode", number(options.query_quant_mode), "3, per token and head, for an int8 query");
  for (const auto& [argument, array] : {std::pair{"key", &key}, std::pair{"value", &value}}) {
    if (*array && array->element != Element::int8)
      refuse(argument, std::string("dtype ") + name(array->element), "int8 for an int8 query");
  }
  if (!rope) refuse("query_rope", "None", "a tensor for an int8 query");
  if (rope.element != Element::bfloat16 && rope.element != Element::float16)
    refuse("query_rope", std::string("dtype ") + name(rope.element), "bfloat16 or float16 for an int8 query");
  if (options.out_dtype && *options.out_dtype != rope.element)
    refuse("out_dtype", name(*options.out_dtype), std::string("query_rope's dtype ") + name(rope.element));
}

bool is_quantised(const Spelling& spelling, const Array& query) {
  return spelling.interface == Interface::npu_fused_infer_attention_score_v2 &&
         query.element == Element::int8;
}

// An axis of D = 1 behind those that the caller gave, if he gave none.
Array with_channel(const Array& scale, int rank) {
  Array all = scale;
  if (scale.rank != rank - 1) return all;
  const auto last = static_cast<std::size_t>(rank - 1);
  all.rank = rank;
  all.shape[last] = 1;
  all.stride[last] = 1;
  return all;
}

}  // namespace

Array meant_query(const Spelling& spelling, const InferenceOptions& options, const Array& query,
                  const Array& key, const Array& value) {
  if (!is_quantised(spelling, query)) {
    check_unquantised(options);
    return query;
  }
  check_quantised(options, key, value);
  Array meant = query;
  meant.data = nullptr;
  meant.element = options.stored.query_rope.element;
  return meant;
}

QuantisedQuery read_quantised_query(const InferenceOptions& options, const Array& query, Layout layout,
                                    const TensorView& meant) {
  if (!options.dequant_scale_query) return {};
  const Layout apart = layout == Layout::bsh ? Layout::bsnd : layout;  // the scale has heads of its own
  const Array scale = with_channel(options.dequant_scale_query, rank_of(apart));
  const std::vector<std::int64_t> shape = shape_of(apart, meant.batches(), meant.heads(), meant.rows(), 1);
  if (!has_shape(scale, shape)) {
    refuse("dequant_scale_query", shape_text(options.dequant_scale_query),
           shape_text(shape.data(), shape.size()) + ", the last axis or not");
  }
  return {view_of(query, layout, meant.heads()), view_of(scale, apart, meant.heads())};
}

TensorView dequantised(const QuantisedQuery& query, const TensorView& meant, Buffer& buffer) {
  const TensorView &stored = query.stored, &scale = query.scale;
  const TensorView all = buffer.contiguous(meant);
  const std::int64_t heads = all.heads(), rows = all.rows(), channels = all.channels();
  with_floating_type(all.dtype, [&](auto type) {
    using T = decltype(type);
    parallel_for(all.batches() * rows, thread_count(), [&](std::int64_t task, int) {
      const std::int64_t batch = task / rows, row = task % rows;
      for (std::int64_t head = 0; head < heads; ++head) {
        const auto place = [&](const TensorView& view) {
          return batch * view.stride[0] + head * view.stride[1] + row * view.stride[2];
        };
        const auto* from = static_cast<const std::int8_t*>(stored.data) + place(stored);
        const float factor = static_cast<const float*>(scale.data)[place(scale)];
        T* to = static_cast<T*>(all.data) + place(all);
        for (std::int64_t c = 0; c < channels; ++c)
          to[c] = from_float<T>(static_cast<float>(from[c * stored.stride[3]]) * factor);
      }
    });
  });
  return all;
}

}  // namespace fusion_attention
