// npu_fusion_attention, versions 1, 2 and 3, and their gradients: the words of the Ascend documents, read
// once, checked once, turned into a Problem. The Python functions are thin layers over this class.
//
//   FusionAttentionOptions options;
//   options.head_num = 32;
//   options.input_layout = "BSND";
//   options.scale = 0.088;
//   FusionAttention call(Pass::forward, query, key, value, options);
//   call.forward(attention_out, softmax_max, softmax_sum);
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "fusion_attention/families/array.h"
#include "fusion_attention/problem.h"

namespace fusion_attention {

// Every argument of the documents after query, key and value, under the spelling of version 2, with the
// documents' defaults.
struct FusionAttentionOptions {
  static constexpr std::int64_t kAllTokens = 2147483647;

  std::int64_t head_num = 0;  // N of query
  std::string input_layout;   // BSH, SBH, BSND, BNSD, TND, in either case
  double scale = 1.0;         // scale_value in the gradients

  Array atten_mask;  // bool, uint8 or int8, non-zero hides; absent: full attention whatever the mode
  std::int64_t sparse_mode = 0;  // 0 … 6; TND: 0 … 4, 6, 7, 8
  std::int64_t pre_tokens = kAllTokens;
  std::int64_t next_tokens = kAllTokens;
  std::optional<std::vector<std::int64_t>> prefix;  // modes 5 and 6: one per batch entry or sequence

  std::optional<std::vector<std::int64_t>> actual_seq_qlen;   // TND: cumulative ends, no leading 0
  std::optional<std::vector<std::int64_t>> actual_seq_kvlen;  // as many
  std::string softmax_layout;                                 // "", or "TND" under input_layout TND

  // A bias of query's type: [1 or B, 1 or N, 1 or Sq, Skv]; [1 or B, 1 or N, 1024, S], the last 1024 rows
  // under a causal mask; TND: [N·Σ sq·skv], [N·Σ skv] or the last 1024 rows. Slopes: float32 [N] or [B, N].
  Array pse;
  std::int64_t pse_type = 1;  // 0 scale·QKᵀ + pse, 1 scale·(QKᵀ + pse), 2 and 3 slopes
  std::optional<std::vector<std::int64_t>> q_start_idx, kv_start_idx;  // one number each, or neither

  double keep_prob = 1.0;             // (0, 1]
  std::int64_t seed = 0, offset = 0;  // of the dropout bits
  Array dropout_mask;                 // uint8, a bit per score, used instead of seed and offset

  Array sink;                      // float32 [N]
  Array query_rope, key_rope;      // both or neither: more channels of query and key
  Array padding_mask;              // must be absent, as documented
  std::int64_t inner_precise = 0;  // 0 … 3, no numeric effect

  std::optional<bool> strict;  // families/strict.h; absent: the environment decides

  bool tockens = false;  // refusals say pre_tockens and next_tockens, as version 1 spells them
};

// Where the backward writes: contiguous memory of the shape and type of what each is the gradient of.
struct Gradients {
  void *dq = nullptr, *dk = nullptr, *dv = nullptr;
  void* dpse = nullptr;                         // null: not computed
  void *dq_rope = nullptr, *dk_rope = nullptr;  // null: not written
  float* dsink = nullptr;                       // null: not computed
};

// One call, read and checked against shapes and dtypes; no element of query, key, value or a mask has been
// touched. The lengths have been copied: changing the caller's list afterwards has no effect.
class FusionAttention {
 public:
  // Throws Error: the argument in the caller's spelling, what was given, what is allowed.
  FusionAttention(Pass pass, const Array& query, const Array& key, const Array& value,
                  const FusionAttentionOptions& options);

  const std::vector<std::int64_t>& output_shape() const { return output_shape_; }
  const std::vector<std::int64_t>& statistics_shape() const { return statistics_shape_; }
  std::int64_t numels() const { return numels_; }  // B·N·Sq·Skv, or N·Σ sq·skv for TND

  // Contiguous memory of output_shape() and statistics_shape(); the latter two may be null.
  void forward(void* attention_out, float* softmax_max, float* softmax_sum);

  // The statistics and attention_in are used as given, never recomputed: they may belong to a longer row
  // than this call sees (ring attention).
  void backward(const Array& dy, const Array& softmax_max, const Array& softmax_sum,
                const Array& attention_in, const Gradients& gradients);

  // What forward or backward will compute, without the pointers that they are given.
  const Problem& problem() const { return problem_; }

  // What the caller should know though it is no error: that a sparse_mode without a mask or a prefix has no
  // effect, that the mask shows what the tokens hide. Each at most once per process. Reads the mask.
  std::vector<std::string> notes() const;

 private:
  struct Given;
  struct Copies;

  TensorView like_output(const Array& array, const char* argument) const;
  void copy_inputs(Copies& copies, bool contiguous_pse);

  Problem problem_;
  std::shared_ptr<const Given> given_;
  std::vector<std::int64_t> output_shape_, statistics_shape_;
  std::int64_t numels_ = 0;
};

}  // namespace fusion_attention
