#include "problem/planes.h"

#include <algorithm>
#include <initializer_list>

#include "fusion_attention/error.h"

namespace fusion_attention {
namespace {

constexpr std::int64_t kMost = std::int64_t{1} << 62;

std::int64_t product(std::initializer_list<std::int64_t> sizes) {
  std::int64_t all = 1;
  for (const std::int64_t size : sizes)
    if (__builtin_mul_overflow(all, size, &all) || all > kMost)
      throw Error(ErrorKind::value, "query and key", "more than 2^62 scores",
                  "scores that an index can count");
  return all;
}

std::int64_t sum(std::int64_t a, std::int64_t b) {
  if (a > kMost - b)
    throw Error(ErrorKind::value, "query and key", "more than 2^62 scores", "scores that an index can count");
  return a + b;
}

// A block of [heads, rows, keys] at `base`.
Plane plane_of(std::int64_t base, const BiasAxes& axes, std::int64_t rows, std::int64_t keys) {
  return {base, axes.head ? product({axes.row ? rows : 1, keys}) : 0, axes.row ? keys : 0};
}

// The planes of a contiguous [B, N, rows, Tk], in which `first_row` counts for a sequence that starts later.
std::int64_t number_tensor(Problem& p, Plane Sequence::* plane, const BiasAxes& axes, std::int64_t rows,
                           bool first_row) {
  const std::int64_t keys = p.key.rows(),
                     entry = product({axes.head ? p.query.heads() : 1, axes.row ? rows : 1, keys});
  const std::int64_t all = product({axes.batch ? p.query.batches() : 1, entry});
  for (Sequence& s : p.sequences)
    s.*plane =
        plane_of((axes.batch ? s.batch * entry : 0) + (axes.row && first_row ? s.row * keys : 0) + s.key,
                 axes, rows, keys);
  return all;
}

// The planes of blocks of each sequence's own size.
std::int64_t number_sequences(Problem& p, Plane Sequence::* plane, const BiasAxes& axes) {
  std::int64_t base = 0;
  for (Sequence& s : p.sequences) {
    s.*plane = plane_of(base, axes, s.rows, s.keys);
    base = sum(base, product({axes.head ? p.query.heads() : 1, axes.row ? s.rows : 1, s.keys}));
  }
  return base;
}

// The planes of blocks of one size, one per sequence or one for all.
std::int64_t number_alike(Problem& p, Plane Sequence::* plane, const BiasAxes& axes, std::int64_t rows,
                          std::int64_t keys) {
  const std::int64_t block = product({axes.head ? p.query.heads() : 1, axes.row ? rows : 1, keys});
  std::int64_t base = 0;
  for (Sequence& s : p.sequences) {
    s.*plane = plane_of(base, axes, rows, keys);
    if (axes.batch) base = sum(base, block);
  }
  return axes.batch ? base : block;
}

std::int64_t number_slopes(Problem& p, const BiasAxes& axes, Numbering numbering) {
  const std::int64_t entry = axes.head ? p.query.heads() : 1;
  std::int64_t index = 0;
  for (Sequence& s : p.sequences) {
    const std::int64_t at = numbering == Numbering::tensor ? s.batch : index++;
    s.bias = {axes.batch ? at * entry : 0, axes.head ? 1 : 0, 0};
  }
  if (!axes.batch) return entry;
  return entry * (numbering == Numbering::tensor ? p.query.batches() : index);
}

}  // namespace

Numbering numbering_of(const Problem& p) {
  if (p.cache.pages || p.cache.has_prefix()) return Numbering::sequences;
  std::int64_t batch = -1;
  for (const Sequence& s : p.sequences) {
    if (s.batch <= batch || s.row != 0 || s.key != 0) return Numbering::sequences;
    batch = s.batch;
  }
  return Numbering::tensor;
}

std::int64_t natural_dropout(Problem& p, Numbering numbering) {
  const BiasAxes all{true, true, true};
  return numbering == Numbering::tensor
             ? number_tensor(p, &Sequence::dropout, all, p.query.rows(), /*first_row=*/true)
             : number_sequences(p, &Sequence::dropout, all);
}

void natural_bias(Problem& p, const BiasAxes& given, Numbering numbering) {
  const std::int64_t last = p.bias.last_rows;
  const BiasAxes axes{given.batch, given.head, given.row || last > 0};
  if (p.bias.kind != BiasKind::dense) {
    p.bias.elements = number_slopes(p, axes, numbering);
  } else if (numbering == Numbering::tensor) {
    p.bias.elements =
        number_tensor(p, &Sequence::bias, axes, last > 0 ? last : p.query.rows(), /*first_row=*/last == 0);
  } else if (axes.batch && last == 0) {
    p.bias.elements = number_sequences(p, &Sequence::bias, axes);
  } else {
    std::int64_t rows = last, keys = 0;
    for (const Sequence& s : p.sequences) {
      if (last == 0) rows = std::max(rows, s.rows);
      keys = std::max(keys, s.keys);
    }
    p.bias.elements = number_alike(p, &Sequence::bias, axes, rows, keys);
  }
}

}  // namespace fusion_attention
