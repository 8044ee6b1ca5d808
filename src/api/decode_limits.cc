// Strict mode of the operators that decode: what their documents say is not supported.
#include <algorithm>
#include <string>

#include "api/inference_limits.h"
#include "api/operands.h"
#include "api/refuse.h"
#include "api/stored_keys.h"

namespace fusion_attention {
namespace {

constexpr unsigned kIncre = bit(Interface::incre_flash_attention) | bit(Interface::npu_incre_flash_attention),
                   kFused = bit(Interface::npu_fused_infer_attention_score) |
                            bit(Interface::npu_fused_infer_attention_score_v2),
                   kVersion1 = bit(Interface::npu_fused_infer_attention_score),
                   kVersion2 = bit(Interface::npu_fused_infer_attention_score_v2), kAll = kIncre | kFused;

constexpr const char* kPage = "torch_npu-npu_fused_infer_attention_score.md";
constexpr const char* kPage2 = "torch_npu-npu_fused_infer_attention_score_v2.md";

using Call = const InferenceCall&;

bool one_row(Call c) {
  return has_one_row(c.layouts.input, c.problem.query);
}

bool has_rope(Call c) {
  return static_cast<bool>(c.options.stored.query_rope);
}

Refused page_size(Call c) {
  const std::int64_t size = c.options.stored.block_size;
  if (!c.options.stored.block_table) return std::nullopt;
  const std::int64_t step =
      one_row(c) || has_rope(c) || packed(c) ? (aligned_channels(c) == 32 ? 32 : 16) : 128;
  const std::int64_t most = has_rope(c) || packed(c) ? 1024 : 512;
  return where(size > most || size % step != 0, number(size));
}

// int8 beside rope channels of another type.
bool quantised_query(Call c) {
  return static_cast<bool>(c.options.dequant_scale_query);
}

Refused quantised_rows(Call c) {
  const std::int64_t mode = c.options.stored.key_antiquant_mode;
  return where(c.options.stored.key_antiquant_scale && !one_row(c) && mode > 1, number(mode));
}

constexpr InferenceLimit kLimits[] = {
    {"decode-batch", kAll, "query", "B of at most 65536", kPage,
     [](Call c) { return packed(c) ? Refused() : outside("B", c.problem.query.batches(), 0, 65536); }},
    {"decode-heads", kAll, "query", "N of at most 256", kPage,
     [](Call c) { return outside("N", c.problem.query.heads(), 1, 256); }},
    {"decode-group", kAll, "num_key_value_heads", "at most 64 query heads for each", kPage,
     [](Call c) { return has_rope(c) ? Refused() : outside("group", c.problem.group(), 1, 64); }},
    {"decode-depth", kAll, "query", "D of at most 512", kPage,
     [](Call c) { return outside("D", c.problem.query.channels(), 1, 512); }},
    {"decode-depth-unaligned", kAll, "query", "D a multiple of 16 (int8: 32, int4: 64)", kPage,
     [](Call c) {
       const std::int64_t depth = c.problem.query.channels();
       return where(depth % aligned_channels(c) != 0, "D = " + number(depth));
     }},
    {"decode-dtype", kAll, "query", "float16 or bfloat16, several rows int8 too", kPage,
     [](Call c) {
       const bool int8_row = one_row(c) && c.query.element == Element::int8 && !quantised_query(c);
       return where(c.query.element == Element::float32 || int8_row,
                    std::string("dtype ") + name(c.query.element));
     }},
    {"decode-value-depth", kAll, "value", "query's D", kPage,
     [](Call c) {
       const std::int64_t depth = c.problem.query.channels();
       return packed(c) || has_rope(c) ? Refused() : outside("D", c.problem.value.channels(), depth, depth);
     }},
    {"decode-keys", kAll, "key", "at most 262144 keys for one row", kPage,
     [](Call c) {
       std::int64_t longest = 0;
       for (const Sequence& s : c.problem.sequences) longest = std::max(longest, s.keys);
       return one_row(c) ? outside("keys", longest, 0, 262144) : Refused();
     }},
    {"decode-rope-depth", kFused, "query_rope", "D = 64 beside a D of 512 or 128", kPage,
     [](Call c) {
       if (!has_rope(c)) return Refused();
       const Array& rope = c.options.stored.query_rope;
       const std::int64_t heads = merges_heads(c.layouts.input) ? c.problem.query.heads() : 1,
                          width = rope.shape[static_cast<std::size_t>(rope.rank - 1)] / heads,
                          depth = c.problem.query.channels();
       return where(width != 64 || (depth != 512 && depth != 128),
                    number(width) + " beside " + number(depth));
     }},
    {"decode-nbsd", kFused, "input_layout", "an output of NBSD for 1 to 16 rows", kPage,
     [](Call c) {
       const std::int64_t rows = c.problem.query.rows();
       return where(c.layouts.output == Layout::nbsd && rows > 16, number(rows) + " rows");
     }},
    {"decode-page", kAll, "block_size",
     "a multiple of 16 (int8: 32) to 512 for one row, of 128 to 512 for more, of 16 to 1024 with rope or "
     "packed",
     kPage, page_size},
    {"decode-pool", kAll, "key", "a pool [pages, block_size, heads * D] for BSH and BSND", kPage,
     [](Call c) {
       const bool rows_first = c.layouts.input == Layout::bsh || c.layouts.input == Layout::bsnd;
       return where(c.options.stored.block_table && rows_first && c.key.rank == 4, shape_text(c.key));
     }},
    {"decode-pages-prefix", kVersion1, "key_shared_prefix", "None with block_table", kPage,
     [](Call c) {
       return where(c.options.stored.block_table && c.options.stored.key_shared_prefix, "a tensor");
     }},
    {"decode-quantised-rows", kVersion1, "key_antiquant_mode", "0 or 1 for more than one row", kPage,
     quantised_rows},
    {"decode-quantised-rows-v2", kVersion2, "key_quant_mode", "0 or 1 for more than one row", kPage2,
     quantised_rows},
    {"decode-int8-depth", kVersion2, "query", "D = 512 for int8", kPage2,
     [](Call c) {
       const std::int64_t depth = c.problem.query.channels();
       return where(quantised_query(c) && depth != 512, "D = " + number(depth));
     }},
    {"decode-int8-mode", kVersion2, "key_quant_mode", "0 for an int8 query", kPage2,
     [](Call c) {
       const std::int64_t mode = c.options.stored.key_antiquant_mode;
       return where(quantised_query(c) && mode != 0, number(mode));
     }},
    {"decode-int8-scale", kVersion2, "dequant_scale_key", "one float32 for an int8 query", kPage2,
     [](Call c) {
       const Array& scale = c.options.stored.key_antiquant_scale;
       return where(quantised_query(c) && (count(scale) != 1 || scale.element != Element::float32),
                    std::string(name(scale.element)) + " " + shape_text(scale));
     }},
    {"decode-int8-offset", kVersion2, "dequant_offset_key", "None for an int8 query", kPage2,
     [](Call c) { return where(quantised_query(c) && c.options.stored.key_antiquant_offset, "a tensor"); }},
    {"decode-int8-output", kVersion2, "quant_scale_out", "None for an int8 query", kPage2,
     [](Call c) { return where(quantised_query(c) && c.options.quant_scale2, "a tensor"); }},
    {"decode-sink", kVersion2, "learnable_sink", "None but for TND and NTD_TND with a D of value up to 128",
     kPage2,
     [](Call c) {
       const bool fits = packed(c) && c.layouts.output == Layout::tnd && c.problem.value.channels() <= 128;
       return where(c.options.learnable_sink && !fits, shape_text(c.options.learnable_sink));
     }},
};

}  // namespace

std::span<const InferenceLimit> decode_limits() {
  return kLimits;
}

}  // namespace fusion_attention
