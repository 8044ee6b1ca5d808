// The inference operators: prompt_flash_attention and incre_flash_attention of MindSpore and torch_npu,
// npu_fused_infer_attention_score and its version 2. Their words are read once,
// checked once, turned into a Problem; how an interface spells them and what its own document refuses follows
// from `interface`.
//
//   InferenceOptions options;
//   options.num_heads = 32;
//   options.input_layout = "BNSD";
//   options.scale = 0.088;
//   InferenceAttention call(query, key, value, options);
//   call.forward(attention_out, nullptr);
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "fusion_attention/families/array.h"
#include "fusion_attention/families/stored_keys.h"
#include "fusion_attention/families/strict.h"
#include "fusion_attention/problem.h"

namespace fusion_attention {

// Every argument after query, key and value under torch_npu's spelling, with the defaults of its interface.
// Interfaces that have no such argument leave it alone.
struct InferenceOptions {
  static constexpr std::int64_t kAllTokens = 2147483647;

  explicit InferenceOptions(Interface of = Interface::npu_prompt_flash_attention);

  Interface interface;
  std::int64_t num_heads = 1;            // N of query
  std::int64_t num_key_value_heads = 0;  // 0: as many; else a divisor of N
  // BSH, BNSD, BSND, BNSD_BSND, TND, in either case; fused infer: NTD and more outputs, too.
  std::string input_layout = "BSH";
  double scale = 1.0;  // any finite number

  Array atten_mask;              // bool, uint8, int8 or float16, non-zero hides
  std::int64_t sparse_mode = 0;  // 0 … 4, fused infer 9 (a tree), too; all but 0 need a mask
  std::int64_t pre_tokens = kAllTokens;
  std::int64_t next_tokens;  // 0 of the prompt operators, else kAllTokens

  // Rows of query and keys that take part, one number per batch entry or one for all; TND: cumulative ends.
  std::optional<std::vector<std::int64_t>> actual_seq_lengths, actual_seq_lengths_kv;

  Array pse_shift;  // of query's type, float16 for int8: [1 or B, N, Sq or more, Skv or more]

  // int8 operands: the first three, of one element. An int8 output: quant_scale2, of one element or N·Dv.
  Array deq_scale1, quant_scale1, deq_scale2;
  Array quant_scale2, quant_offset2;

  // fused infer, version 2: an int8 query beside int8 keys and values, with rope channels of a floating type,
  // in which the call is computed. float32 of query's shape but for its D (or 1); mode 3, per token and head.
  Array dequant_scale_query;
  std::int64_t query_quant_mode = 0;
  std::optional<Element> out_dtype;  // that of the rope channels

  StoredKeys stored;     // of the interfaces that decode
  Array learnable_sink;  // [N], any floating type

  Array padding_mask;  // must be absent, as documented
  // float16: 1 and 3 round Q·Kᵀ to float16 once. 0 of fused infer, else 1.
  std::int64_t inner_precise;

  std::optional<bool> strict;  // families/strict.h; absent: the environment decides
};

// One call, read and checked against shapes and dtypes. Of the caller's memory only scales and offsets have
// been read; arrays without memory may be given to have a call checked.
class InferenceAttention {
 public:
  // Throws Error: the argument in the caller's spelling, what was given, what is allowed.
  InferenceAttention(const Array& query, const Array& key, const Array& value,
                     const InferenceOptions& options);

  const std::vector<std::int64_t>& output_shape() const { return output_shape_; }
  Element output_element() const;
  const std::vector<std::int64_t>& lse_shape() const { return lse_shape_; }  // [B, N, Sq, 1], [T, N, 1]

  // Contiguous memory of output_shape(); and of lse_shape(), or null: ln Σ exp(score) of every row, +inf for
  // one that sees nothing.
  void forward(void* attention_out, float* softmax_lse) const;

  // What forward will compute, without the pointers that it is given.
  const Problem& problem() const { return problem_; }

  // What the caller should know though it is no error: that the mask shows what the tokens hide, that
  // float16 masks will go. Each at most once per process. Reads the mask.
  std::vector<std::string> notes() const;

 private:
  struct Given;

  Problem problem_;
  std::shared_ptr<const Given> given_;
  std::vector<std::int64_t> output_shape_, lse_shape_;
};

}  // namespace fusion_attention
