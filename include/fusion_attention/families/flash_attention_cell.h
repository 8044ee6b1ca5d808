// The acctransformer cell FlashAttention: the words of its document, read once, checked once, turned into a
// Problem. The NumPy, torch and MindSpore forms are thin layers over this class.
//
//   FlashAttentionCellOptions options;
//   options.head_dim = 128;
//   options.prev_block_num = 7;
//   options.next_block_num = 0;
//   FlashAttentionCell call(Pass::forward, query, key, value, options);
//   call.forward(out, softmax_max, softmax_sum);
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "fusion_attention/families/array.h"
#include "fusion_attention/problem.h"

namespace fusion_attention {

class AdditiveMask;

// The arguments of the constructor with the document's defaults, and those of the call after query, key and
// value. A query tile qb sees the key tiles qb - prev_block_num ... qb + next_block_num, all T wide.
struct FlashAttentionCellOptions {
  std::int64_t head_dim = 0;
  double dropout_rate = 0.0;  // [0, 1)
  std::int64_t prev_block_num = 65536, next_block_num = 65536;
  std::string tiling_stgy_name = "sparse";  // "sparse", "xunfei": T = 128; "wukong": T = 64
  // Shards of the batch and of the heads, all of this process: the sizes must be multiples. A slice is
  // computed alike alone and in the whole, so nothing else depends on them.
  std::int64_t dp = 1, mp = 1;
  bool have_attention_mask_batch = true;
  bool alibi = false;

  // -10000 times the mask is added to the scaled scores. (1 or B, Sq, Skv), or (1, T, T): then it is added on
  // the tiles of the diagonal alone. Without a batch axis (have_attention_mask_batch false) the first size is
  // 1 or missing. Any float, bool, uint8 or int8; absent: nothing is added.
  Array attention_mask;
  Array
      alibi_mask;  // (1 or B, N, 1, Skv), any float; added to the scaled scores; present just if alibi is set

  std::uint64_t seed = 0, offset = 0;  // of dropout
  // For a slice that is computed alone: where it lies in the whole, so that it has the dropout of the whole.
  std::int64_t first_batch = 0, first_head = 0;
  std::int64_t all_heads = 0;  // of the whole; 0: as many as query has
};

// One call, read and checked. The masks have been read and copied; no element of query, key or value has been
// touched.
class FlashAttentionCell {
 public:
  // Throws Error where a constructor's argument cannot be right whatever the tensors are.
  static void check(const FlashAttentionCellOptions& options);

  // Throws Error: the argument, what was given, what is allowed.
  FlashAttentionCell(Pass pass, const Array& query, const Array& key, const Array& value,
                     const FlashAttentionCellOptions& options);
  FlashAttentionCell(const FlashAttentionCell&) = delete;  // problem_ points into it
  FlashAttentionCell& operator=(const FlashAttentionCell&) = delete;

  // Contiguous memory: [B, N, Sq, D] of query's dtype; [B, Sq, N] for each statistic.
  void forward(void* out, float* softmax_max, float* softmax_sum);

  // The statistics and out are those of the forward. dq, dk, dv: contiguous memory of the operands' shapes.
  void backward(const Array& dy, const Array& out, const float* softmax_max, const float* softmax_sum,
                void* dq, void* dk, void* dv);

  // What is computed first, and what joins it: nothing, or where a small mask that is not causal acts on the
  // tiles of the diagonal the tiles before and after them.
  const Problem& problem() const { return problem_; }
  const std::vector<Problem>& more() const { return more_; }

  // What the caller should know though it is no error.
  const std::vector<std::string>& notes() const { return notes_; }

 private:
  void add_masks(const FlashAttentionCellOptions& options, std::int64_t tile);
  void add_mask(const AdditiveMask& mask);
  void add_tile(const AdditiveMask& mask, std::int64_t tile);
  void set_bias();
  TensorView like_query(const Array& array, const char* argument) const;

  Problem problem_;
  std::vector<Problem> more_;  // over the same rows, with other keys: their results join those of problem_
  Array query_, key_, value_;
  std::vector<std::uint8_t> hidden_;     // what problem_.overlay points to
  std::vector<float> bias_, tile_bias_;  // what the biases point to
  std::vector<std::string> notes_;
};

}  // namespace fusion_attention
