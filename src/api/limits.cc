#include "api/limits.h"

#include <algorithm>
#include <initializer_list>

#include "api/mask.h"
#include "api/refuse.h"
#include "api/sparse_mode.h"

namespace fusion_attention {
namespace {

constexpr unsigned kTorchNpu = bit(Interface::npu_fusion_attention), kMindSpeed = bit(Interface::mindspeed),
                   kBoth = kTorchNpu | kMindSpeed, kTe = bit(Interface::ascend_flash_attention),
                   kAscendSpeed = bit(Interface::npu_flash_attention),
                   kRing = bit(Interface::npu_ring_attention_update),
                   kCell = bit(Interface::flash_attention_cell);

constexpr std::int64_t kKilo = 1024, kMega = kKilo * kKilo;  // the documents' K and M
constexpr std::int64_t kMindSpeedEnd = 1000000;              // as its source has it

constexpr const char* kTorchNpuPage = "torch_npu-npu_fusion_attention.md, constraints";
constexpr const char* kTiling = "flash_attention_score_tiling_general.cpp";
constexpr const char* kSeed0 = "seed 000, inputs";
constexpr const char* kSeed1 = "seed 001, input limits";
constexpr const char* kSeed1Mask = "seed 001, atten_mask";
constexpr const char* kSeed2 = "seed 002, parameters";
constexpr const char* kSeed3 = "seed 003, inputs";
constexpr const char* kRope = "FlashAttentionV2KernelNpuOpApi.cpp";
constexpr const char* kRingPage = "aclnnRingAttentionUpdateV2_en.md";

// --- What was given ---

bool packed(const LimitedCall& call) {
  return call.layout == Layout::tnd;
}

Refused no_multiple(const char* what, std::int64_t given, std::int64_t of) {
  if (given % of == 0) return std::nullopt;
  return std::string(what) + " = " + number(given);
}

Refused batches(const LimitedCall& call, std::int64_t most) {
  if (packed(call)) return std::nullopt;
  return outside("B", call.problem.query.batches(), 1, most);
}

Refused heads(const LimitedCall& call) {
  return outside("N", call.problem.query.heads(), 1, 256);
}

Refused depth(const LimitedCall& call, std::int64_t most) {
  return outside("D", call.problem.query.channels(), 1, most);
}

Refused length(const LimitedCall& call, const TensorView& view, std::int64_t most) {
  return outside(packed(call) ? "T" : "S", view.rows(), 1, most);
}

Refused unlike_query(const LimitedCall& call, const Array& array) {
  const auto end = static_cast<std::ptrdiff_t>(array.rank);
  const bool alike = array.rank == call.query.rank &&
                     std::equal(array.shape.begin(), array.shape.begin() + end, call.query.shape.begin());
  return where(!alike, shape_text(array) + " beside query " + shape_text(call.query));
}

Refused dtype(const Array& array, std::initializer_list<Element> allowed) {
  const bool listed = std::find(allowed.begin(), allowed.end(), array.element) != allowed.end();
  return where(array && !listed, std::string("dtype ") + name(array.element));
}

bool has_prefix(const LimitedCall& call) {
  return call.options.prefix && (call.options.sparse_mode == 5 || call.options.sparse_mode == 6);
}

Refused sequences(const LimitedCall& call, std::size_t most) {
  const std::size_t count = call.problem.sequences.size();
  return where(packed(call) && count > most, number(static_cast<std::int64_t>(count)) + " sequences");
}

bool has_slopes(const LimitedCall& call) {
  return call.options.pse && call.options.pse_type >= 2;
}

bool any_sequence(const LimitedCall& call, bool (*is)(const Sequence&)) {
  const auto& all = call.problem.sequences;
  return packed(call) && std::any_of(all.begin(), all.end(), is);
}

bool has_rope(const LimitedCall& call) {
  return static_cast<bool>(call.options.query_rope);
}

// --- Rules of more than one number ---

Refused mask_axes(const LimitedCall& call) {
  const Array& mask = call.options.atten_mask;
  if (!mask || mask.rank != 4 || packed(call)) return std::nullopt;
  const bool alone = mask.shape[0] == 1 && call.problem.query.batches() > 1 && mask.shape[1] > 1;
  return where(alone, shape_text(mask));
}

Refused pse_heads(const LimitedCall& call) {
  const Array& pse = call.options.pse;
  const bool broadcast =
      pse && !has_slopes(call) && pse.rank == 4 && pse.shape[1] == 1 && call.problem.query.heads() > 1;
  return where(broadcast, shape_text(pse));
}

// The last rows of pse stand for all: modes 2, 3, or tokens that say causal.
Refused compressed_pse(const LimitedCall& call) {
  if (call.problem.bias.last_rows == 0) return std::nullopt;
  const std::int64_t mode = call.options.sparse_mode;
  const bool tokens =
      mode == 0 && call.options.next_tokens == 0 && call.options.pre_tokens >= call.problem.query.rows();
  const bool causal = call.options.atten_mask && (mode == 2 || mode == 3 || tokens);
  return where(!causal, "[.., 1024, S] with sparse_mode " + number(mode));
}

Refused slopes_of_unequal_lengths(const LimitedCall& call) {
  const std::int64_t rows = call.problem.query.rows(), keys = call.problem.key.rows();
  return where(
      has_slopes(call) && !packed(call) && rows != keys,
      "pse_type " + number(call.options.pse_type) + " with Sq = " + number(rows) + ", Skv = " + number(keys));
}

Refused mode_5_prefix(const LimitedCall& call) {
  const bool refused = call.options.sparse_mode == 5 && call.options.atten_mask &&
                       !has_valid_prefix(call.options, call.problem.sequences);
  return where(refused, call.options.prefix ? "other numbers" : "None");
}

Refused capitals(const LimitedCall& call) {
  const bool needs = call.options.sparse_mode >= 7 || !call.options.softmax_layout.empty();
  const std::string& layout = call.options.input_layout;
  return where(packed(call) && needs && layout != "TND", quoted(layout));
}

Refused furthest_end(const LimitedCall& call) {
  for (const auto* ends : {&call.options.actual_seq_qlen, &call.options.actual_seq_kvlen}) {
    if (!*ends) continue;
    for (const std::int64_t end : **ends)
      if (end > kMindSpeedEnd) return "an end of " + number(end);
  }
  return std::nullopt;
}

// --- The table ---

using Call = const LimitedCall&;

constexpr Limit kLimits[] = {
    // Sizes.
    {"batch", kTorchNpu, "query", "B of 1 to 2097152", kTorchNpuPage,
     [](Call c) { return batches(c, 2 * kMega); }},
    {"batch-mindspeed", kMindSpeed, "query", "B of 1 to 2048", kSeed1,
     [](Call c) { return batches(c, 2 * kKilo); }},
    {"sequences", kBoth, "actual_seq_qlen", "at most 2048 sequences", kTorchNpuPage,
     [](Call c) { return sequences(c, 2 * kKilo); }},
    {"heads", kBoth | kRing, "query", "N of 1 to 256", kTorchNpuPage, heads},
    {"rows", kTorchNpu, "query", "Sq, or T, of 1 to 1048576", kTorchNpuPage,
     [](Call c) { return length(c, c.problem.query, kMega); }},
    {"keys", kTorchNpu, "key", "Skv, or T, of 1 to 1048576", kTorchNpuPage,
     [](Call c) { return length(c, c.problem.key, kMega); }},
    {"rows-mindspeed", kMindSpeed, "query", "Sq of 1 to 524288", kSeed1,
     [](Call c) { return packed(c) ? Refused() : length(c, c.problem.query, kMega / 2); }},
    {"keys-mindspeed", kMindSpeed, "key", "Skv of 1 to 524288", kSeed1,
     [](Call c) { return packed(c) ? Refused() : length(c, c.problem.key, kMega / 2); }},
    {"ends-mindspeed", kMindSpeed, "actual_seq_qlen", "ends of at most 1000000", "fusion_attention_v2.cpp",
     furthest_end},
    {"rows-te", kTe, "query", "S a multiple of 256", kSeed0,
     [](Call c) { return no_multiple("S", c.problem.query.rows(), 256); }},
    {"depth", kTorchNpu | kRing, "query", "D of 1 to 768", kTorchNpuPage,
     [](Call c) { return depth(c, 768); }},
    {"depth-mindspeed", kMindSpeed, "query", "D of 1 to 512", kSeed1, [](Call c) { return depth(c, 512); }},
    {"depth-te", kTe, "query", "D of 1 to 128", kSeed0, [](Call c) { return depth(c, 128); }},
    {"depth-16", kTe, "query", "D a multiple of 16", kSeed0,
     [](Call c) { return no_multiple("D", c.problem.query.channels(), 16); }},
    {"depth-cell", kCell, "query", "D of 1 to 128", kSeed3, [](Call c) { return depth(c, 128); }},
    {"depth-64", kRing, "prev_attn_out", "D a multiple of 64 for TND", kRingPage,
     [](Call c) { return packed(c) ? no_multiple("D", c.problem.query.channels(), 64) : Refused(); }},
    {"value-depth", kTorchNpu, "value", "D of at most key's", kTorchNpuPage,
     [](Call c) { return outside("D", c.problem.value.channels(), 1, c.problem.key.channels()); }},
    {"value-shape", kMindSpeed, "value", "key's shape", kSeed1,
     [](Call c) {
       return outside("D", c.problem.value.channels(), c.problem.key.channels(), c.problem.key.channels());
     }},
    {"key-shape", kTe | kCell, "key", "query's shape", "seeds 000 and 003, inputs",
     [](Call c) { return unlike_query(c, c.key); }},
    {"value-like-query", kTe | kCell, "value", "query's shape", "seeds 000 and 003, inputs",
     [](Call c) { return unlike_query(c, c.value); }},
    {"no-keys", kBoth, "actual_seq_kvlen", "one key or more for each sequence with rows",
     "training-ops 5: varlen",
     [](Call c) {
       const bool bare = any_sequence(c, [](const Sequence& s) { return s.rows > 0 && s.keys == 0; });
       return where(bare, "a sequence with rows and no keys");
     }},

    // Types.
    {"dtype-halves", kMindSpeed | kTe, "query", "float16 or bfloat16", "seeds 000 and 001, inputs",
     [](Call c) { return dtype(c.query, {Element::float16, Element::bfloat16}); }},
    {"dtype-ascendspeed", kAscendSpeed, "query", "float16 or float32", kSeed2,
     [](Call c) { return dtype(c.query, {Element::float16, Element::float32}); }},
    {"dtype-cell", kCell, "query", "float16", kSeed3,
     [](Call c) { return dtype(c.query, {Element::float16}); }},
    {"mask-dtype", kBoth, "atten_mask", "bool or uint8", kSeed1Mask,
     [](Call c) { return dtype(c.options.atten_mask, {Element::boolean, Element::uint8}); }},
    {"mask-dtype-halves", kTe | kCell, "atten_mask", "float16", "seeds 000 and 003, inputs",
     [](Call c) { return dtype(c.options.atten_mask, {Element::float16}); }},

    // Layouts and broadcasts.
    {"layout-ascendspeed", kAscendSpeed, "input_layout", "BSH or SBH", "FlashAttention.cpp",
     [](Call c) { return where(!merges_heads(c.layout), quoted(c.options.input_layout)); }},
    {"capitals", kTorchNpu, "input_layout", "\"TND\" in capitals, with softmax_layout or sparse_mode 7 or 8",
     "FlashAttentionKernelNpuOpApi.cpp", capitals},
    {"softmax-layout", kTorchNpu, "softmax_layout", "\"TND\" in capitals", "FlashAttentionKernelNpuOpApi.cpp",
     [](Call c) {
       const std::string& given = c.options.softmax_layout;
       return where(!given.empty() && given != "TND", quoted(given));
     }},
    {"mask-axes", kBoth, "atten_mask", "[B, N, Sq, Skv], [B, 1, Sq, Skv], [1, 1, Sq, Skv] or [Sq, Skv]",
     kSeed1Mask, mask_axes},
    {"mask-packed", kBoth, "atten_mask", "two axes for TND", kSeed1Mask,
     [](Call c) {
       const Array& mask = c.options.atten_mask;
       return where(packed(c) && mask && mask.rank != 2, shape_text(mask));
     }},
    {"mask-plane", kTe, "atten_mask", "[S, S]", kSeed0,
     [](Call c) {
       const Array& mask = c.options.atten_mask;
       return where(mask && mask.rank != 2, shape_text(mask));
     }},
    {"pse-heads", kBoth, "pse", "as many heads as query", kTiling, pse_heads},
    {"pse-compressed", kBoth, "pse",
     "1024 last rows with sparse_mode 2 or 3, or 0 with pre_tokens of Sq or more and next_tokens 0", kTiling,
     compressed_pse},

    // Combinations.
    {"prefix-batch", kBoth, "prefix", "at most 32 numbers", kSeed1,
     [](Call c) {
       const auto count = static_cast<std::int64_t>(has_prefix(c) ? c.options.prefix->size() : 0);
       return where(!packed(c) && count > 32, number(count) + " numbers");
     }},
    {"prefix-sequences", kBoth, "prefix", "at most 1024 sequences", kTorchNpuPage,
     [](Call c) { return has_prefix(c) ? sequences(c, kKilo) : Refused(); }},
    {"prefix-mode-5", kBoth, "prefix",
     "one number within max(Skv - Sq, 0) to Skv for each batch entry with sparse_mode 5", kSeed1,
     mode_5_prefix},
    {"pse-modes", kBoth, "pse", "None for sparse_mode 7 and 8", kSeed1,
     [](Call c) {
       return where(c.options.pse && c.options.sparse_mode >= 7,
                    "a tensor with sparse_mode " + number(c.options.sparse_mode));
     }},
    {"pse-empty", kBoth, "pse", "None where a sequence has no rows or no keys", kTiling,
     [](Call c) {
       const bool empty = any_sequence(c, [](const Sequence& s) { return s.rows == 0 || s.keys == 0; });
       return where(c.options.pse && empty, "a tensor with an empty sequence");
     }},
    {"slopes-lengths", kBoth, "pse_type", "2 or 3 only where Sq = Skv", kTiling, slopes_of_unequal_lengths},
    {"slopes-gradient", kBoth, "pse", "slopes [N] in the gradient", "flash_attention_score_grad",
     [](Call c) {
       return where(c.pass == Pass::backward && has_slopes(c) && c.options.pse.rank != 1,
                    shape_text(c.options.pse));
     }},
    {"tokens-mask", kBoth, "atten_mask", "a mask that hides what pre_tokens and next_tokens hide", kSeed1,
     [](Call c) {
       return where(c.options.sparse_mode == 0 && mask_exceeds_band(c.problem),
                    "one that keeps keys outside the tokens");
     }},
    {"inner-precise", kBoth, "inner_precise", "0, 1 or 2", kTorchNpuPage,
     [](Call c) { return outside("value", c.options.inner_precise, 0, 2); }},
    {"rope-layout", kTorchNpu, "query_rope", "None but for input_layout TND", kRope,
     [](Call c) { return where(has_rope(c) && !packed(c), std::string("a tensor with ") + name(c.layout)); }},
    {"rope-dtype", kTorchNpu, "query_rope", "bfloat16", kRope,
     [](Call c) { return dtype(c.options.query_rope, {Element::bfloat16}); }},
    {"rope-dropout", kTorchNpu, "keep_prob", "1 with query_rope", kRope,
     [](Call c) {
       return where(has_rope(c) && c.options.keep_prob < 1, std::to_string(c.options.keep_prob));
     }},
    {"rope-pse", kTorchNpu, "pse", "None with query_rope", kRope,
     [](Call c) { return where(has_rope(c) && c.options.pse, "a tensor"); }},
    {"rope-mask", kTorchNpu, "atten_mask", "a mask with query_rope", kRope,
     [](Call c) { return where(has_rope(c) && !c.options.atten_mask, "None"); }},
    {"rope-mode", kTorchNpu, "sparse_mode", "other than 6 with query_rope", kRope,
     [](Call c) { return where(has_rope(c) && c.options.sparse_mode == 6, "6"); }},
};

}  // namespace

std::span<const Limit> limits() {
  return kLimits;
}

void refuse_limit(const LimitText& limit, Interface interface, const std::string& given) {
  refuse(limit.argument, given,
         std::string(limit.allowed) + " by the document of " + name(interface) + " (strict mode; " +
             limit.source + ")");
}

Refused outside(const char* what, std::int64_t given, std::int64_t low, std::int64_t high) {
  if (given >= low && given <= high) return std::nullopt;
  return std::string(what) + " = " + number(given);
}

Refused where(bool refused, std::string given) {
  if (!refused) return std::nullopt;
  return given;
}

}  // namespace fusion_attention
