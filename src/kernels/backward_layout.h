// The scratch of a backward task.
#pragma once

#include "kernels/kernels.h"
#include "kernels/pack.h"
#include "kernels/visible.h"

namespace fusion_attention::kernels {

// Where everything of a task lies in its scratch.
template <class Arch, class Format>
struct BackwardLayout {
  std::int64_t query_blocks, key_blocks,
      group_blocks;                       // of a super-block, of the keys of the task, of a group of keys
  int columns, value_columns;             // C blocks of D and of Dv
  std::size_t depth_block, value_block;   // bytes of 32 rows of D (Dv) channels, packed
  std::size_t query_plane, query_column;  // A and B whose depth is the super-block: plane, operand
  std::size_t group_plane, group_column;  // likewise for the group of keys
  std::size_t q_t, do_t, q, d_o, k, k_t, v, p, ds, ds_b, s, dp, carry, bias, kept, shown, rows, log_sum,
      delta, alive, visible, seen, dq, dk, dv, bytes;

  FA_INLINE BackwardLayout(const Shape& shape, const Blocking& blocking, std::int64_t keys) {
    query_blocks = ceil_div(blocking.rows, kBlock);
    group_blocks = ceil_div(blocking.keys, kBlock);
    key_blocks = ceil_div(keys, kBlock);
    columns = static_cast<int>(ceil_div(shape.depth, kBlock));
    value_columns = static_cast<int>(ceil_div(shape.value_depth, kBlock));
    depth_block = operand_bytes<Format>(shape.depth);
    value_block = operand_bytes<Format>(shape.value_depth);
    query_plane = plane_bytes<Format>(query_blocks * kBlock);
    query_column = Format::kPlanes * query_plane;
    group_plane = plane_bytes<Format>(group_blocks * kBlock);
    group_column = Format::kPlanes * group_plane;
    constexpr std::size_t kC = arch::kBlockFloats * sizeof(float);
    std::size_t at = 0;
    const auto take = [&](std::size_t size) __attribute__((always_inline)) {
      const std::size_t here = at;
      at += (size + kLine - 1) / kLine * kLine;
      return here;
    };
    q_t = take(query_blocks * depth_block), do_t = take(query_blocks * value_block);
    q = take(columns * query_column), d_o = take(value_columns * query_column);
    k = take(group_blocks * depth_block), k_t = take(columns * group_column),
    v = take(group_blocks * value_block);
    p = take(query_column), ds = take(query_column), ds_b = take(query_blocks * group_column);
    s = take(2 * kC), dp = take(kC), carry = take(2 * kLine);
    bias = take(kC);
    kept = take(query_blocks * group_blocks * kBlock * sizeof(std::uint32_t));
    shown = take(query_blocks * group_blocks * kBlock * sizeof(std::uint32_t));
    rows = take(group_blocks * kBlock * sizeof(std::uint32_t));
    log_sum = take(blocking.rows * sizeof(float)), delta = take(blocking.rows * sizeof(float));
    alive = take(query_blocks * sizeof(std::uint32_t));
    visible = take(blocking.rows * sizeof(Interval));
    seen = take(query_blocks * sizeof(Seen));
    dq = take(columns * query_blocks * kC);
    dk = take(key_blocks * columns * kC), dv = take(key_blocks * value_columns * kC);
    bytes = at;
  }
};

}  // namespace fusion_attention::kernels
