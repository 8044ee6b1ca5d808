#include "api/inference_mask.h"

#include <algorithm>

#include "api/inference_operands.h"
#include "api/inference_windows.h"
#include "api/mask.h"
#include "api/refuse.h"
#include "api/sparse_mode.h"
#include "base/parallel.h"
#include "fusion_attention/run.h"

namespace fusion_attention {
namespace {

struct Tokens {
  std::int64_t pre, next;
};

Tokens tokens_of(const InferenceOptions& options) {
  const auto within = [](std::int64_t n) { return std::clamp(n, -Band::kFar, Band::kFar); };
  return {within(options.pre_tokens), within(options.next_tokens)};
}

void check_dtype(const Spelling& spelling, const Array& mask) {
  if (spelling.decodes) return check_mask_type(spelling.atten_mask, mask);
  switch (mask.element) {
    case Element::boolean:
    case Element::uint8:
    case Element::int8:
    case Element::float16:
      return;
    default:
      spelling.refuse_dtype(spelling.atten_mask, mask, "bool, int8, uint8 or float16");
  }
}

// MindSpore's own list has a compressed mask per batch entry, too. The content is not read: the mode's
// formula says the same.
void check_compressed(const Spelling& spelling, const Array& mask, std::int64_t batches, std::int64_t mode) {
  const std::size_t row = static_cast<std::size_t>(std::clamp(mask.rank, 2, 4) - 2);
  const bool plane = mask.rank >= 2 && mask.rank <= 4 && mask.shape[row] == kCompressed &&
                     mask.shape[row + 1] == kCompressed;
  const bool head = mask.rank != 4 || mask.shape[1] == 1;
  const bool batch = mask.rank == 2 || mask.shape[0] == 1 ||
                     (mask.rank == 4 && spelling.has_error_table && mask.shape[0] == batches);
  if (plane && head && batch) return;
  refuse(spelling.atten_mask, shape_text(mask),
         "[2048, 2048], [1, 2048, 2048] or [1, 1, 2048, 2048] for sparse_mode " + number(mode));
}

Array with_row_axis(const Array& mask) {
  Array plane = mask;
  plane.rank = 3;
  plane.shape = {mask.shape[0], 1, mask.shape[1]};
  plane.stride = {mask.stride[0], 0, mask.stride[1]};
  return plane;
}

// [Sq, Skv], [1 or B, Sq, Skv] or [1 or B, 1, Sq, Skv]; elsewhere than in MindSpore the last two may be
// padded. A single row has [1 or B, Skv] instead of the first.
Overlay full_mask(const Spelling& spelling, const Array& given, bool single, std::int64_t batches,
                  std::int64_t rows, std::int64_t keys) {
  const Array mask = single && given.rank == 2 ? with_row_axis(given) : given;
  const auto fits = [&spelling](std::int64_t length, std::int64_t size) {
    return length == size || (length > size && !spelling.has_error_table);
  };
  const std::size_t row = static_cast<std::size_t>(std::clamp(mask.rank, 2, 4) - 2);
  const bool batch = mask.rank == 2 || mask.shape[0] == 1 || mask.shape[0] == batches;
  const bool head = mask.rank != 4 || mask.shape[1] == 1;
  if (mask.rank < 2 || mask.rank > 4 || !batch || !head || !fits(mask.shape[row], rows) ||
      !fits(mask.shape[row + 1], keys)) {
    const std::string plane = number(rows) + ", " + number(keys) + "]", front = "[1 or " + number(batches);
    refuse(spelling.atten_mask, shape_text(given),
           "[" + plane + ", " + front + ", " + plane + " or " + front + ", 1, " + plane);
  }
  Overlay overlay;
  overlay.data = static_cast<const std::uint8_t*>(mask.data);
  if (row > 0 && mask.shape[0] > 1) overlay.stride[0] = mask.stride[0];
  overlay.stride[2] = mask.stride[row];
  overlay.stride[3] = mask.stride[row + 1];
  return overlay;
}

// Negative tokens move the band off a corner while the other end still reaches back. `rows`, `keys`: how far
// a negative next and a negative pre may go.
void check_negative(const Tokens& tokens, std::int64_t rows, std::int64_t keys, const Sequence& sequence) {
  const std::string sizes = " (Sq = " + number(sequence.rows) + ", Skv = " + number(sequence.keys) + ")";
  if (tokens.pre < 0 && tokens.next < 0) {
    refuse("pre_tokens", number(tokens.pre) + " with next_tokens " + number(tokens.next),
           "a negative number on one side of the diagonal alone");
  }
  if (tokens.next < -tokens.pre) {
    refuse("next_tokens", number(tokens.next) + " with pre_tokens " + number(tokens.pre),
           "a band that ends no earlier than it begins");
  }
  if (tokens.next < 0 && -tokens.next >= rows)
    refuse("next_tokens", number(tokens.next), "above " + number(-rows) + sizes);
  if (tokens.pre < 0 && -tokens.pre >= keys)
    refuse("pre_tokens", number(tokens.pre), "above " + number(-keys) + sizes);
}

void check_tokens(std::int64_t mode, const Tokens& tokens, const Sequence& sequence) {
  if (sequence.rows == 0 || sequence.keys == 0) return;
  if (mode == 0) check_negative(tokens, sequence.rows, sequence.keys, sequence);
  if (mode == 4) check_negative(tokens, sequence.keys, sequence.rows, sequence);
}

void check_tree(const Spelling& spelling, const InferenceOptions& options, Layout layout,
                const Problem& problem) {
  if (!options.stored.query_rope) refuse("sparse_mode", "9", "0 to 4 without query_rope and key_rope");
  if (options.stored.query_padding_size) refuse("query_padding_size", "a tensor", "None for sparse_mode 9");
  check_tree_mask(spelling, options.atten_mask, layout, problem);
}

// Padding takes part where the lengths that it goes with are given.
bool has_left_padding(const InferenceOptions& options, const Problem& problem) {
  const auto has_numbers = [](const auto& list) { return list && !list->empty(); };
  return (options.stored.kv_padding_size && has_numbers(options.actual_seq_lengths_kv)) ||
         (options.stored.query_padding_size && has_numbers(options.actual_seq_lengths) &&
          problem.query.rows() > 1);
}

}  // namespace

void apply_inference_mask(const Spelling& spelling, const InferenceOptions& options, Layout layout,
                          std::int64_t keys, Problem& problem) {
  const std::int64_t mode = options.sparse_mode;
  const Array& mask = options.atten_mask;
  const bool tree = mode == 9 && spelling.decodes && !spelling.is_incre();
  if (!tree && (mode < 0 || mode > 4)) refuse("sparse_mode", number(mode), "0, 1, 2, 3 or 4");
  if (tree) return check_tree(spelling, options, layout, problem);
  const bool single = ignores_mode(spelling, options, layout, problem.query);
  if (!mask) {
    if (mode != 0 && !single) refuse(spelling.atten_mask, "None", "a tensor for sparse_mode " + number(mode));
    return;  // full attention, whatever the tokens say
  }
  check_dtype(spelling, mask);
  const std::int64_t batches = problem.query.batches();
  if (mode > 1) {
    check_compressed(spelling, mask, batches, mode);
    if (single) return;
  } else if (is_packed(layout)) {
    refuse(spelling.atten_mask, "a tensor", "None for sparse_modes 0 and 1 of packed sequences");
  } else {
    problem.overlay = full_mask(spelling, mask, single, batches, problem.query.rows(), keys);
  }
  if (mode == 0 && (single || has_left_padding(options, problem)))
    return;  // documented: the tokens say nothing then
  const Tokens tokens = tokens_of(options);
  for (Sequence& sequence : problem.sequences) {
    check_tokens(mode, tokens, sequence);
    sequence.band = band_of(mode, tokens.pre, tokens.next, sequence);
  }
}

Overlay mask_of_halves(const Array& mask, Buffer& buffer) {
  const auto row_axis = static_cast<std::size_t>(mask.rank - 2), key_axis = row_axis + 1;
  const std::int64_t batches = mask.rank > 2 ? mask.shape[0] : 1, rows = mask.shape[row_axis],
                     keys = mask.shape[key_axis], step = mask.stride[key_axis];
  std::uint8_t* bytes = buffer.bytes(product({batches, rows, keys}));
  parallel_for(batches * rows, thread_count(), [&](std::int64_t task, int) {
    const std::int64_t batch = task / rows, row = task % rows;
    const auto* from = static_cast<const std::uint16_t*>(mask.data) +
                       (mask.rank > 2 ? batch * mask.stride[0] : 0) + row * mask.stride[row_axis];
    std::uint8_t* to = bytes + task * keys;
    for (std::int64_t key = 0; key < keys; ++key) to[key] = (from[key * step] & 0x7fff) != 0;  // −0 is zero
  });
  return {bytes, {batches > 1 ? rows * keys : 0, 0, keys, 1}};
}

}  // namespace fusion_attention
