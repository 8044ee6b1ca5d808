#include "api/inference_windows.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "api/mask.h"
#include "api/operands.h"
#include "api/refuse.h"

namespace fusion_attention {
namespace {

// Memory of one plane per sequence, nothing hidden.
Overlay shown(const Problem& problem, Buffer& buffer) {
  std::int64_t rows = 0, keys = 0, bytes = 0;
  for (const Sequence& s : problem.sequences) rows = std::max(rows, s.rows), keys = std::max(keys, s.keys);
  if (__builtin_mul_overflow(rows, keys, &bytes) ||
      __builtin_mul_overflow(bytes, static_cast<std::int64_t>(problem.sequences.size()), &bytes)) {
    throw Error(ErrorKind::memory, "workspace", "a mask of more bytes than 64 bits can count", "less");
  }
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

}  // namespace fusion_attention
