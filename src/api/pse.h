// pse of the documents, in all its shapes: a bias on the scores of any (1 or B, 1 or N, 1 or Sq, Skv), the
// last 1024 rows of one, blocks of packed sequences, or slopes. It becomes Problem::bias and a Plane per
// sequence.
#pragma once

#include <optional>

#include "fusion_attention/families/fusion_attention.h"
#include "fusion_attention/problem.h"
#include "problem/layout.h"

namespace fusion_attention {

struct Pse {
  TensorView view;  // of the caller: [batch or sequence, head, row, key]; slopes have one row and key
  // Not none: `view` is one axis, the blocks [N, rows or 1, keys] of packed sequences one behind the other.
  enum class Blocks { none, one_row, all_rows } blocks = Blocks::none;

  // Whether the library's kernels can read it where it lies: a row is contiguous.
  bool in_place() const;
};

// Sets problem.bias without its data, and bias and bias_shift of every sequence. After apply_sparse_mode.
// None where there is no pse. `query`: its element type. Throws Error.
std::optional<Pse> apply_pse(const FusionAttentionOptions& options, Layout layout, Element query,
                             Problem& problem);

// Planes and the number of elements for memory at `view`, which has the shape of pse.view.
void set_planes(const Pse& pse, const TensorView& view, Problem& problem);

}  // namespace fusion_attention
