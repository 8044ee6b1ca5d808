#include "api/mask.h"

#include <algorithm>
#include <cstring>

#include "api/refuse.h"

namespace fusion_attention {

void check_mask_type(const char* argument, const Array& mask) {
  if (mask.element != Element::boolean && mask.element != Element::uint8 && mask.element != Element::int8) {
    refuse(argument, std::string("dtype ") + name(mask.element), "bool, uint8 or int8");
  }
}

// The content of a compressed mask is not read: the mode's formula says the same (docs/differences.md, 3).
void check_compressed_mask(const Array& mask, std::int64_t mode) {
  const std::int64_t rows = mode == 6 ? kPrefixRows : kCompressed;
  const auto last_two = [&mask, rows](std::size_t first) {
    return mask.shape[first] == rows && mask.shape[first + 1] == kCompressed;
  };
  const bool fits = (mask.rank == 2 && last_two(0)) ||
                    (mask.rank == 4 && mask.shape[0] == 1 && mask.shape[1] == 1 && last_two(2));
  if (!fits) {
    const std::string plane = number(rows) + ", " + number(kCompressed) + "]";
    refuse("atten_mask", shape_text(mask),
           "[" + plane + " or [1, 1, " + plane + " for sparse_mode " + number(mode));
  }
}

// A mask of the whole problem: [Sq, Skv] or [1 or B, 1 or N, Sq, Skv]; packed sequences share the top left
// corner of one [longest Sq, longest Skv].
Overlay overlay_of(const Array& mask, Layout layout, const Problem& problem) {
  std::int64_t rows = 0, keys = 0;
  for (const Sequence& sequence : problem.sequences) {
    rows = std::max(rows, sequence.rows);
    keys = std::max(keys, sequence.keys);
  }
  const bool packed = layout == Layout::tnd;
  if (!packed) rows = problem.query.rows(), keys = problem.key.rows();
  const std::int64_t batches = packed ? 1 : problem.query.batches();
  const std::int64_t heads = packed ? 1 : problem.query.heads();
  const std::size_t first = mask.rank == 4 ? 2 : 0;
  const auto one_or = [&mask](std::size_t axis, std::int64_t size) {
    return mask.shape[axis] == 1 || mask.shape[axis] == size;
  };
  const bool fits = (mask.rank == 2 || (mask.rank == 4 && one_or(0, batches) && one_or(1, heads))) &&
                    mask.shape[first] == rows && mask.shape[first + 1] == keys;
  if (!fits) {
    const std::string plane = number(rows) + ", " + number(keys) + "]";
    refuse("atten_mask", shape_text(mask),
           "[" + plane +
               (packed ? " (the longest query and key sequence)"
                       : " or [1 or " + number(batches) + ", 1 or " + number(heads) + ", " + plane));
  }
  Overlay overlay;
  overlay.data = static_cast<const std::uint8_t*>(mask.data);
  if (mask.rank == 4) {
    overlay.stride[0] = mask.shape[0] == 1 ? 0 : mask.stride[0];
    overlay.stride[1] = mask.shape[1] == 1 ? 0 : mask.stride[1];
  }
  overlay.stride[2] = mask.stride[first];
  overlay.stride[3] = mask.stride[first + 1];
  return overlay;
}

bool mask_exceeds_band(const Problem& problem) {
  const Overlay& overlay = problem.overlay;
  if (!overlay) return false;
  const std::int64_t heads = overlay.stride[1] == 0 ? 1 : problem.query.heads();
  const auto keeps = [&overlay](const Sequence& sequence, std::int64_t head, std::int64_t row,
                                std::int64_t begin, std::int64_t end) {
    const std::uint8_t* bytes = overlay.data + sequence.batch * overlay.stride[0] + head * overlay.stride[1] +
                                row * overlay.stride[2];
    if (begin >= end) return false;
    if (overlay.stride[3] == 1)
      return std::memchr(bytes + begin, 0, static_cast<std::size_t>(end - begin)) != nullptr;
    for (std::int64_t key = begin; key < end; ++key) {
      if (bytes[key * overlay.stride[3]] == 0) return true;
    }
    return false;
  };
  for (const Sequence& sequence : problem.sequences) {
    if (sequence.band.full()) continue;
    for (std::int64_t head = 0; head < heads; ++head) {
      for (std::int64_t row = 0; row < sequence.rows; ++row) {
        const Interval seen = sequence.band.row(row, sequence.keys);
        const std::int64_t begin = seen.empty() ? 0 : seen.begin, end = seen.empty() ? 0 : seen.end;
        if (keeps(sequence, head, row, 0, begin) || keeps(sequence, head, row, end, sequence.keys))
          return true;
      }
    }
  }
  return false;
}

}  // namespace fusion_attention
