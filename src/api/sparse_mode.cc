#include "api/sparse_mode.h"

#include <algorithm>
#include <cstring>

#include "api/refuse.h"

namespace fusion_attention {
namespace {

constexpr std::int64_t kCompressed = 2048;  // rows and keys of the mask that modes 2, 3 and 4 ask for

struct Tokens {
  std::int64_t pre, next;
  const char* pre_name;
  const char* next_name;
};

Tokens tokens_of(const FusionAttentionOptions& options) {
  const auto within = [](std::int64_t n) { return std::clamp(n, -Band::kFar, Band::kFar); };
  return {within(options.pre_tokens), within(options.next_tokens),
          options.tockens ? "pre_tockens" : "pre_tokens", options.tockens ? "next_tockens" : "next_tokens"};
}

void check_mode(const FusionAttentionOptions& options, Layout layout) {
  const std::int64_t mode = options.sparse_mode;
  const bool packed = layout == Layout::tnd;
  if (mode < 0 || mode > (packed ? 8 : 6) || (packed && mode == 5)) {
    refuse("sparse_mode", number(mode),
           packed ? "0 to 8 except 5 for input_layout TND"
                  : std::string("0 to 6 for input_layout ") + name(layout));
  }
  if (options.atten_mask && mode > 4) refuse_until_later("sparse_mode", number(mode), "0 to 4");
}

void check_mask_type(const Array& mask) {
  if (mask.element != Element::boolean && mask.element != Element::uint8 && mask.element != Element::int8) {
    refuse("atten_mask", std::string("dtype ") + name(mask.element), "bool, uint8 or int8");
  }
}

// The content of a compressed mask is not read: the mode's formula says the same (ruling 3).
void check_compressed(const Array& mask, std::int64_t mode) {
  const auto last_two = [&mask](int first) {
    return mask.shape[static_cast<std::size_t>(first)] == kCompressed &&
           mask.shape[static_cast<std::size_t>(first) + 1] == kCompressed;
  };
  const bool fits = (mask.rank == 2 && last_two(0)) ||
                    (mask.rank == 4 && mask.shape[0] == 1 && mask.shape[1] == 1 && last_two(2));
  if (!fits) {
    refuse("atten_mask", shape_text(mask),
           "[2048, 2048] or [1, 1, 2048, 2048] for sparse_mode " + number(mode));
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

// Negative tokens move the band off a corner; the documents allow it while the other end reaches back.
// `pre` and `next` count from the top left corner.
void check_negative(const Tokens& tokens, std::int64_t pre, std::int64_t next, const Sequence& sequence) {
  const std::string sizes = " (Sq = " + number(sequence.rows) + ", Skv = " + number(sequence.keys) + ")";
  if (pre < 0 && next < 0) {
    refuse(tokens.pre_name, number(tokens.pre) + " with " + tokens.next_name + " " + number(tokens.next),
           "a band that is not empty on both sides of the diagonal" + sizes);
  }
  if (next < 0 && (-next > pre || -next >= sequence.rows)) {
    refuse(
        tokens.next_name, number(tokens.next),
        std::string("a negative number no further than ") + tokens.pre_name + " and shorter than Sq" + sizes);
  }
  if (pre < 0 && (next < -pre || -pre >= sequence.keys)) {
    refuse(tokens.pre_name, number(tokens.pre),
           std::string("a negative number no further than ") + tokens.next_name + " and shorter than Skv" +
               sizes);
  }
}

void check_packed_tokens(std::int64_t mode, const Tokens& tokens, const Sequence& sequence) {
  const std::string sizes =
      " (a sequence has " + number(sequence.rows) + " rows and " + number(sequence.keys) + " keys)";
  if (mode == 0) {
    if (tokens.next < 0) refuse(tokens.next_name, number(tokens.next), "0 or more for input_layout TND");
    if (sequence.keys + tokens.pre < sequence.rows) {
      refuse(tokens.pre_name, number(tokens.pre), "at least rows - keys of every sequence" + sizes);
    }
    return;
  }
  if (tokens.pre < 0) refuse(tokens.pre_name, number(tokens.pre), "0 or more for input_layout TND");
  if (tokens.next < 0 && tokens.pre + tokens.next < 0) {
    refuse(tokens.next_name, number(tokens.next),
           std::string("a negative number no further than ") + tokens.pre_name);
  }
  if (sequence.rows - tokens.next > sequence.keys) {
    refuse(tokens.next_name, number(tokens.next), "at least rows - keys of every sequence" + sizes);
  }
}

void check_sequence(std::int64_t mode, Layout layout, const Tokens& tokens, const Sequence& sequence) {
  const bool packed = layout == Layout::tnd;
  const std::int64_t corner = sequence.keys - sequence.rows;
  if (sequence.rows == 0 || sequence.keys == 0) return;
  if (mode == 3 && packed && corner < 0) {
    refuse("actual_seq_kvlen", number(sequence.keys) + " keys for " + number(sequence.rows) + " rows",
           "no sequence with more rows than keys for sparse_mode 3");
  }
  if (mode != 0 && mode != 4) return;
  if (packed) {
    check_packed_tokens(mode, tokens, sequence);
  } else if (mode == 0) {
    check_negative(tokens, tokens.pre, tokens.next, sequence);
  } else {
    check_negative(tokens, tokens.pre - corner, tokens.next + corner, sequence);
  }
}

// Ends that hide nothing become infinite, so that a band which shows everything says so.
Band trimmed(std::int64_t lo, std::int64_t hi, const Sequence& sequence) {
  Band band;
  if (sequence.rows - 1 + lo > 0) band.lo = lo;
  if (hi < sequence.keys - 1) band.hi = hi;
  return band;
}

Band band_of(std::int64_t mode, const Tokens& tokens, const Sequence& sequence) {
  const std::int64_t corner = sequence.keys - sequence.rows;
  switch (mode) {
    case 0:
      return trimmed(-tokens.pre, tokens.next, sequence);
    case 2:
      return trimmed(-Band::kFar, 0, sequence);
    case 3:
      return trimmed(-Band::kFar, corner, sequence);
    case 4:
      return trimmed(corner - tokens.pre, corner + tokens.next, sequence);
    default:
      return {};
  }
}

}  // namespace

void apply_sparse_mode(const FusionAttentionOptions& options, Layout layout, Problem& problem) {
  check_mode(options, layout);
  if (!options.atten_mask) return;  // full attention whatever the mode and the tokens say (ruling 2)
  check_mask_type(options.atten_mask);
  if (options.sparse_mode >= 2) {
    check_compressed(options.atten_mask, options.sparse_mode);
  } else {
    problem.overlay = overlay_of(options.atten_mask, layout, problem);
  }
  const Tokens tokens = tokens_of(options);
  for (Sequence& sequence : problem.sequences) {
    check_sequence(options.sparse_mode, layout, tokens, sequence);
    sequence.band = band_of(options.sparse_mode, tokens, sequence);
  }
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
