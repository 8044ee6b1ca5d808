#include "api/inference_limits.h"

#include <algorithm>
#include <initializer_list>

#include "api/mask.h"
#include "api/operands.h"
#include "api/refuse.h"

namespace fusion_attention {
namespace {

constexpr unsigned kMindSpore = bit(Interface::prompt_flash_attention),
                   kTorchNpu = bit(Interface::npu_prompt_flash_attention), kBoth = kMindSpore | kTorchNpu;

constexpr std::int64_t kMaxLength = 20971520;  // 20 M

constexpr const char* kSeed = "seed 004, notes";
constexpr const char* kSeedArguments = "seed 004, parameters";
constexpr const char* kPage = "aclnnPromptFlashAttentionV3.md";
constexpr const char* kTiling = "prompt_flash_attention_tiling.cpp";

using Call = const InferenceCall&;

bool is_int8_out(Call c) {
  return static_cast<bool>(c.options.quant_scale2);
}

// Zeros, not the offset, in rows that the hardware never computes.
Refused offset_of_empty_rows(Call c) {
  if (!c.options.quant_offset2) return std::nullopt;
  for (const Sequence& s : c.problem.sequences) {
    if (s.rows == 0 || s.keys == 0 || s.band.full()) continue;
    const bool first = s.band.row(0, s.keys).empty(), last = s.band.row(s.rows - 1, s.keys).empty();
    if (first || last) return "a tensor with rows that see no key";
  }
  return std::nullopt;
}

Refused lengths_of_zero(const std::optional<std::vector<std::int64_t>>& lengths) {
  return where(lengths && std::find(lengths->begin(), lengths->end(), 0) != lengths->end(), "0");
}

Refused packed_heads(Call c) {
  const std::int64_t heads = c.problem.query.heads();
  const auto allowed = {8, 16, 32, 64, 128};
  return where(packed(c) && std::find(allowed.begin(), allowed.end(), heads) == allowed.end(),
               "N = " + number(heads));
}

Refused packed_depth(Call c) {
  const std::int64_t depth = c.problem.value.channels();
  const bool fits = c.problem.query.channels() == 192 && (depth == 128 || depth == 192);
  return where(packed(c) && !fits,
               "D = " + number(c.problem.query.channels()) + " with " + number(depth) + " of value");
}

constexpr InferenceLimit kLimits[] = {
    // Sizes.
    {"prompt-batch", kBoth, "query", "B of 1 to 65536", kSeed,
     [](Call c) { return packed(c) ? Refused() : outside("B", c.problem.query.batches(), 1, 65536); }},
    {"prompt-batch-unaligned", kBoth, "query", "B of at most 128 where D is no multiple of 16 (int8: 32)",
     kPage,
     [](Call c) {
       return c.problem.query.channels() % aligned_channels(c) == 0
                  ? Refused()
                  : outside("B", c.problem.query.batches(), 1, 128);
     }},
    {"prompt-heads", kBoth, "num_heads", "1 to 256", kSeed,
     [](Call c) { return outside("N", c.problem.query.heads(), 1, 256); }},
    {"prompt-group", kBoth, "num_key_value_heads", "at most 64 query heads for each", kSeed,
     [](Call c) { return outside("group", c.problem.group(), 1, 64); }},
    {"prompt-rows", kBoth, "query", "S of 1 to 20971520", kSeed,
     [](Call c) { return packed(c) ? Refused() : outside("S", c.problem.query.rows(), 1, kMaxLength); }},
    {"prompt-keys", kBoth, "key", "S of 1 to 20971520", kSeed,
     [](Call c) { return packed(c) ? Refused() : outside("S", c.problem.key.rows(), 1, kMaxLength); }},
    {"prompt-depth", kBoth, "query", "D of 1 to 512", kSeed,
     [](Call c) { return outside("D", c.problem.query.channels(), 1, 512); }},
    {"prompt-width", kBoth, "query", "N * D below 65535 for BSH and BSND", kPage,
     [](Call c) {
       const bool rows_first = c.layouts.input == Layout::bsh || c.layouts.input == Layout::bsnd;
       const std::int64_t width = c.problem.query.heads() * c.problem.query.channels();
       return rows_first ? outside("N * D", width, 1, 65534) : Refused();
     }},
    {"prompt-value-depth", kTorchNpu, "value", "query's D but for TND", kPage,
     [](Call c) {
       const std::int64_t depth = c.problem.query.channels();
       return packed(c) ? Refused() : outside("D", c.problem.value.channels(), depth, depth);
     }},

    // Types and words.
    {"prompt-dtype", kTorchNpu, "query", "int8, float16 or bfloat16", kPage,
     [](Call c) { return where(c.query.element == Element::float32, "dtype float32"); }},
    {"prompt-capitals", kTorchNpu, "input_layout", "capitals", kTiling,
     [](Call c) {
       const std::string& letters = c.options.input_layout;
       const bool small = std::any_of(letters.begin(), letters.end(), [](char x) { return x >= 'a'; });
       return where(small, quoted(letters));
     }},
    {"prompt-inner-precise", kMindSpore, "inner_precise", "0 or 1", kSeedArguments,
     [](Call c) { return outside("value", c.options.inner_precise, 0, 1); }},

    // Lengths, masks and tokens.
    {"prompt-lengths", kMindSpore, "actual_seq_lengths", "positive numbers", kSeedArguments,
     [](Call c) { return lengths_of_zero(c.options.actual_seq_lengths); }},
    {"prompt-lengths-kv", kMindSpore, "actual_seq_lengths_kv", "positive numbers", kSeedArguments,
     [](Call c) { return lengths_of_zero(c.options.actual_seq_lengths_kv); }},
    {"prompt-band", kBoth, "pre_tokens", "0 or more, as next_tokens, for sparse_mode 4", kSeedArguments,
     [](Call c) {
       const InferenceOptions& o = c.options;
       const bool negative = o.sparse_mode == 4 && (o.pre_tokens < 0 || o.next_tokens < 0);
       return where(negative, number(o.pre_tokens) + " with next_tokens " + number(o.next_tokens));
     }},
    {"prompt-tokens-mask", kBoth, "sparse_mode",
     "0 only with a mask that hides what pre_tokens and next_tokens hide", kPage,
     [](Call c) {
       const bool bytes = c.options.atten_mask.element != Element::float16;
       return where(bytes && c.options.atten_mask.data && mask_exceeds_band(c.problem),
                    "0 with a mask that keeps keys outside the tokens");
     }},

    // int8.
    {"prompt-int8-tokens", kBoth, "quant_scale2", "None with negative tokens", kSeed,
     [](Call c) {
       const bool negative = c.options.atten_mask && (c.options.pre_tokens < 0 || c.options.next_tokens < 0);
       return where(is_int8_out(c) && negative, "a tensor");
     }},
    {"prompt-int8-channels", kTorchNpu, "quant_scale2", "one element where D is no multiple of 32", kTiling,
     [](Call c) {
       const bool channels = is_int8_out(c) && count(c.options.quant_scale2) != 1;
       return where(channels && c.problem.value.channels() % 32 != 0, shape_text(c.options.quant_scale2));
     }},
    {"prompt-int8-offset", kBoth, "quant_offset2", "None where a row sees no key", kTiling,
     offset_of_empty_rows},
    {"prompt-int8-keys", kBoth, "key", "one key or more for int8", kTiling,
     [](Call c) {
       return where(c.query.element == Element::int8 && c.problem.key.rows() == 0, shape_text(c.key));
     }},

    // TND.
    {"prompt-packed-dtype", kTorchNpu, "query", "bfloat16 for TND", kPage,
     [](Call c) {
       const bool other = packed(c) && c.query.element != Element::bfloat16;
       return where(other, std::string("dtype ") + name(c.query.element));
     }},
    {"prompt-packed-heads", kTorchNpu, "num_heads", "8, 16, 32, 64 or 128 for TND", kPage, packed_heads},
    {"prompt-packed-depth", kTorchNpu, "query", "D = 192, with 128 or 192 of value, for TND", kPage,
     packed_depth},
    {"prompt-packed-mode", kTorchNpu, "sparse_mode", "0 or 3 for TND", kPage,
     [](Call c) {
       const std::int64_t mode = c.options.sparse_mode;
       return where(packed(c) && mode != 0 && mode != 3, number(mode));
     }},
    {"prompt-packed-tokens", kTorchNpu, "query", "T of at most 65536", kPage,
     [](Call c) {
       return packed(c) ? outside("T", std::max(c.problem.query.rows(), c.problem.key.rows()), 0, 65536)
                        : Refused();
     }},
};

}  // namespace

std::span<const InferenceLimit> inference_limits() {
  return kLimits;
}

void refuse_undocumented(const InferenceCall& call) {
  const Interface interface = call.options.interface;
  for (const auto& limits : {inference_limits(), decode_limits()}) {
    for (const InferenceLimit& limit : limits) {
      if (!limit.text.applies(interface)) continue;
      if (const Refused given = limit.broken(call)) refuse_limit(limit.text, interface, *given);
    }
  }
}

}  // namespace fusion_attention
