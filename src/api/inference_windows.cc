#include "api/inference_windows.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "api/mask.h"
#include "api/operands.h"
#include "api/refuse.h"
#include "fusion_attention/run.h"

namespace fusion_attention {
namespace {

// Memory of one plane per sequence, nothing hidden.
Overlay shown(const Problem& problem, Buffer& buffer) {
  std::int64_t rows = 0, keys = 0;
  for (const Sequence& s : problem.sequences) rows = std::max(rows, s.rows), keys = std::max(keys, s.keys);
  const std::int64_t bytes = product({static_cast<std::int64_t>(problem.sequences.size()), rows, keys});
  std::uint8_t* data = buffer.bytes(std::max<std::int64_t>(bytes, 1));
  std::memset(data, 0, static_cast<std::size_t>(bytes));
  return {data, {rows * keys, 0, keys, 1}};
}

}  // namespace

void check_tree_mask(const Spelling& spelling, const Array& mask, Layout layout, const Problem& problem) {
  if (!mask) refuse(spelling.atten_mask, "None", "a tensor for sparse_mode 9");
  check_mask_type(spelling.atten_mask, mask);
  const auto batches = static_cast<std::int64_t>(problem.sequences.size());
  const std::int64_t rows = problem.query.rows();
  std::int64_t squares = 0;
  for (const Sequence& s : problem.sequences) {
    std::int64_t square = 0;
    if (__builtin_mul_overflow(s.rows, s.rows, &square) || __builtin_add_overflow(squares, square, &squares))
      refuse(spelling.actual_seq_lengths, number(s.rows) + " rows", "a mask of fewer than 2^63 pairs");
    if (s.rows > s.keys) {
      refuse(spelling.actual_seq_lengths_kv, number(s.keys) + " keys for " + number(s.rows) + " rows",
             "at least as many keys as rows for sparse_mode 9");
    }
  }
  if (is_packed(layout)) {
    if (!has_shape(mask, {squares}))
      refuse(spelling.atten_mask, shape_text(mask), shape_text(&squares, 1) + ", the squares of the rows");
  } else if (!has_shape(mask, {batches, rows, rows})) {
    const std::int64_t shape[] = {batches, rows, rows};
    refuse(spelling.atten_mask, shape_text(mask), shape_text(shape, 3) + " for sparse_mode 9");
  }
}

Overlay tree_overlay(const Array& mask, const Problem& problem, Buffer& buffer) {
  const Overlay overlay = shown(problem, buffer);
  auto* to = const_cast<std::uint8_t*>(overlay.data);
  const auto* from = static_cast<const std::uint8_t*>(mask.data);
  const bool flat = mask.rank == 1;
  const std::int64_t step = mask.stride[flat ? 0 : 2];
  for (std::size_t b = 0; b < problem.sequences.size(); ++b) {
    const Sequence& s = problem.sequences[b];
    const std::uint8_t* tree = flat ? from : from + static_cast<std::int64_t>(b) * mask.stride[0];
    const std::int64_t row_step = flat ? s.rows * step : mask.stride[1];
    for (std::int64_t i = 0; i < s.rows; ++i)
      for (std::int64_t j = 0; j < s.rows; ++j)
        to[static_cast<std::int64_t>(b) * overlay.stride[0] + i * overlay.stride[2] + s.keys - s.rows + j] =
            tree[i * row_step + j * step];
    if (flat) from += s.rows * s.rows * step;
  }
  return overlay;
}

bool has_windows(const Problem& problem) {
  return std::any_of(problem.sequences.begin(), problem.sequences.end(),
                     [](const Sequence& s) { return s.row != 0 || s.key != 0; });
}

Overlay window_overlay(const Overlay& mask, const Problem& problem, Buffer& buffer) {
  const Overlay overlay = shown(problem, buffer);
  auto* to = const_cast<std::uint8_t*>(overlay.data);
  for (std::size_t b = 0; b < problem.sequences.size(); ++b) {
    const Sequence& s = problem.sequences[b];
    for (std::int64_t i = 0; i < s.rows; ++i)
      for (std::int64_t j = 0; j < s.keys; ++j)
        to[static_cast<std::int64_t>(b) * overlay.stride[0] + i * overlay.stride[2] + j] =
            mask.data[s.batch * mask.stride[0] + (s.row + i) * mask.stride[2] + (s.key + j) * mask.stride[3]];
  }
  return overlay;
}

void run_each(const Problem& whole) {
  const TensorView& out = whole.output;  // contiguous, one batch entry
  const std::int64_t bytes = bytes_of(out.dtype, out.heads() * out.rows() * out.channels());
  Buffer buffer;
  std::uint8_t* results = buffer.bytes(bytes);
  std::memset(results, 0, static_cast<std::size_t>(bytes));
  const auto rows_from = [](TensorView& view, const Sequence& sequence) {
    view.data = static_cast<std::byte*>(view.data) + bytes_of(view.dtype, sequence.row * view.stride[2]);
    view.shape[2] = sequence.rows;
  };
  Problem one = whole;
  one.overlay.stride[0] = 0;
  for (const Sequence& sequence : whole.sequences) {
    one.query = whole.query;
    one.output = whole.output;
    one.output.data = results;
    rows_from(one.query, sequence);
    rows_from(one.output, sequence);
    one.sequences = {sequence};
    one.sequences[0].row = 0;
    if (sequence.rows > 0) run(one);
    one.overlay.data += whole.overlay.stride[0];
    if (!one.statistics.max) continue;
    one.statistics.max += sequence.rows * whole.query.heads();
    one.statistics.sum += sequence.rows * whole.query.heads();
  }
  std::memcpy(out.data, results, static_cast<std::size_t>(bytes));
}

}  // namespace fusion_attention
