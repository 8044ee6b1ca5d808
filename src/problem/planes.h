// Where the numbers of bias and dropout lie by default; a shard passes planes of its own instead. All here
// expect shapes and sequences that validate() takes.
#pragma once

#include <cstdint>

#include "fusion_attention/problem.h"

namespace fusion_attention {

// tensor     one array over the whole tensors, [B, N, Tq, Tk]
// sequences  a block [N, rows, keys] per sequence, one behind the other
enum class Numbering : std::uint8_t { tensor, sequences };

// `tensor` where every sequence starts at the first row and key of a batch entry of its own, and all its keys lie
// there.
Numbering numbering_of(const Problem& problem);

// Axes that a bias has beside the key; slopes have no row. Without `batch` all sequences share one block, as
// large as the largest of them needs.
struct BiasAxes {
  bool batch = false, head = false, row = false;
};

// Sets Sequence::dropout of every sequence; returns how many indices there are. Throws Error where one passes
// 2^62.
std::int64_t natural_dropout(Problem& problem, Numbering numbering);

// Sets Sequence::bias of every sequence and Bias::elements, from Bias::kind and last_rows: contiguous
// [B, N, Tq, Tk] or blocks without the axes that `axes` lacks, Tq = last_rows where that is not 0, blocks of
// `last_rows` all as wide as the longest sequence; slopes [B or sequences, N]. Throws Error where an index
// passes 2^62.
void natural_bias(Problem& problem, const BiasAxes& axes, Numbering numbering);

}  // namespace fusion_attention
