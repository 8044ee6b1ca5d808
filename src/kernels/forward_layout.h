// The scratch of a forward task.
#pragma once

#include "kernels/keys.h"
#include "kernels/softmax.h"
#include "kernels/visible.h"

namespace fusion_attention::kernels {

// 32 rows of a task: their place, what they see of the packed chunk, and how far their softmax is.
template <class Arch>
struct alignas(kLine) RowBlock {
  SoftmaxState<Arch> state;
  std::int64_t head, row;  // of its first row
  int rows;                // of 32
  std::byte* query;
  float* output;                         // C blocks, one per 32 columns
  const std::uint32_t* words = nullptr;  // [step of the chunk][row], of a dense mask; null: none
  Seen seen;
  bool fresh = true;  // nothing is in the output yet
};

// Where everything of a task lies in its scratch.
template <class Arch, class Format, class T>
struct ForwardLayout {
  std::int64_t blocks;                  // row blocks of all heads
  int columns;                          // 32-wide column blocks of O
  int slices;                           // round trips in a chunk
  std::size_t q, k, v_column, v_slice;  // bytes of one packed Q block, K step, V column block, V slice
  std::size_t p_plane;
  std::size_t rows, queries, keys, values, outputs, scores, weights, raises, bias, kept, edge, words,
      step;  // offsets
  std::size_t bytes;

  FA_INLINE ForwardLayout(const Shape& shape, const Blocking& blocking) {
    blocks = shape.group * ceil_div(blocking.rows, kBlock);
    columns = static_cast<int>(ceil_div(shape.value_depth, kBlock));
    slices = static_cast<int>(ceil_div(blocking.keys, blocking.round_trip));
    q = k = operand_bytes<Format>(shape.depth);
    p_plane = plane_bytes<Format>(blocking.round_trip);
    v_column = operand_bytes<Format>(blocking.round_trip);
    v_slice = columns * v_column;
    std::size_t at = 0;
    const auto take = [&](std::size_t size) {
      const std::size_t here = at;
      at += (size + kLine - 1) / kLine * kLine;
      return here;
    };
    rows = take(blocks * sizeof(RowBlock<Arch>));
    queries = take(blocks * q);
    keys = take(blocking.keys / kBlock * k);
    values = take(slices * v_slice);
    outputs = take(blocks * columns * arch::kBlockFloats * sizeof(float));
    scores = take(2 * arch::kBlockFloats * sizeof(float));
    weights = take(Format::kPlanes * p_plane);
    raises = take(sizeof(Raises));
    bias = take(arch::kBlockFloats * sizeof(float));
    kept = take(2 * blocking.round_trip * sizeof(std::uint32_t));
    edge = take(2 * kBlock * sizeof(std::uint32_t));
    words = take(shape.overlay.data ? blocks * blocking.keys * sizeof(std::uint32_t) : 0);
    step = take(KeyRows<Arch, T>::step_bytes(greater(shape.depth, shape.value_depth)));
    bytes = at;
  }
};

}  // namespace fusion_attention::kernels
