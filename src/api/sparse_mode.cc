#include "api/sparse_mode.h"

#include <algorithm>

#include "api/mask.h"
#include "api/refuse.h"

namespace fusion_attention {
namespace {

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

// Rows i see keys i + lo … i + hi; ends that hide nothing become infinite.
Band trimmed(std::int64_t lo, std::int64_t hi, const Sequence& sequence) {
  Band band;
  if (sequence.rows - 1 + lo > 0) band.lo = lo;
  if (hi < sequence.keys - 1) band.hi = hi;
  return band;
}

// Modes 7 and 8 cut one sequence of a packed batch short: the last and the first that has rows.
Sequence* cut_sequence(std::int64_t mode, std::vector<Sequence>& sequences) {
  const auto has_rows = [](const Sequence& sequence) { return sequence.rows > 0; };
  if (mode == 8) {
    const auto first = std::find_if(sequences.begin(), sequences.end(), has_rows);
    return first == sequences.end() ? nullptr : &*first;
  }
  const auto last = std::find_if(sequences.rbegin(), sequences.rend(), has_rows);
  return last == sequences.rend() ? nullptr : &*last;
}

void apply_cut(std::int64_t mode, const Tokens& tokens, std::vector<Sequence>& sequences) {
  Sequence* cut = cut_sequence(mode, sequences);
  if (!cut) return;
  const std::string which = mode == 7 ? "the last sequence's " : "the first sequence's ";
  if (tokens.pre < cut->keys) {
    refuse(tokens.pre_name, number(tokens.pre),
           "at least " + which + number(cut->keys) + " keys for sparse_mode " + number(mode));
  }
  if (mode == 7 && tokens.next > 0)
    refuse(tokens.next_name, number(tokens.next), "0 or less for sparse_mode 7");
  cut->band = trimmed(-Band::kFar, cut->keys - cut->rows + tokens.next, *cut);
}

std::string prefix_range(const Sequence& sequence) {
  return number(std::max<std::int64_t>(sequence.keys - sequence.rows, 0)) + " to " + number(sequence.keys);
}

bool prefix_fits(std::int64_t prefix, const Sequence& sequence) {
  return prefix >= std::max<std::int64_t>(sequence.keys - sequence.rows, 0) && prefix <= sequence.keys;
}

// j <= i + Skv - Sq, or j < prefix.
void apply_prefix(std::int64_t prefix, Sequence& sequence) {
  if (sequence.rows == 0 || sequence.keys == 0) return;
  if (sequence.band.hi != Band::kFar) sequence.band.prefix = prefix;
}

void apply_prefixes(const FusionAttentionOptions& options, std::vector<Sequence>& sequences) {
  const auto& prefix = options.prefix;
  const auto count = static_cast<std::int64_t>(sequences.size());
  if (!prefix) refuse("prefix", "None", "one number for each of " + number(count) + " batch entries");
  if (static_cast<std::int64_t>(prefix->size()) != count) {
    refuse("prefix", number(static_cast<std::int64_t>(prefix->size())) + " numbers",
           "one for each of " + number(count) + " batch entries");
  }
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    Sequence& sequence = sequences[i];
    if (sequence.rows > 0 && sequence.keys > 0 && !prefix_fits((*prefix)[i], sequence)) {
      refuse("prefix", number((*prefix)[i]),
             prefix_range(sequence) + " (Sq = " + number(sequence.rows) + ", Skv = " + number(sequence.keys) +
                 ")");
    }
    apply_prefix((*prefix)[i], sequence);
  }
}

// Mode 5: the mask alone says everything; a prefix joins only where it is one that mode 6 would take, and
// then asks for a mask of every batch entry (docs/differences.md, 23).
void apply_mask_and_prefix(const FusionAttentionOptions& options, std::vector<Sequence>& sequences) {
  if (!has_valid_prefix(options, sequences)) {
    for (Sequence& sequence : sequences) sequence.band = {};
    return;
  }
  const Array& mask = options.atten_mask;
  if (sequences.size() > 1 && (mask.rank != 4 || mask.shape[0] == 1)) {
    refuse("atten_mask", shape_text(mask),
           "a mask of each of " + number(static_cast<std::int64_t>(sequences.size())) +
               " batch entries for sparse_mode 5 with a prefix");
  }
  for (std::size_t i = 0; i < sequences.size(); ++i) apply_prefix((*options.prefix)[i], sequences[i]);
}

}  // namespace

Band band_of(std::int64_t mode, std::int64_t pre, std::int64_t next, const Sequence& sequence) {
  const std::int64_t corner = sequence.keys - sequence.rows;
  switch (mode) {
    case 0:
      return trimmed(-pre, next, sequence);
    case 2:
    case 8:
      return trimmed(-Band::kFar, 0, sequence);
    case 3:
    case 5:
    case 6:
    case 7:
      return trimmed(-Band::kFar, corner, sequence);
    case 4:
      return trimmed(corner - pre, corner + next, sequence);
    default:
      return {};
  }
}

bool has_valid_prefix(const FusionAttentionOptions& options, const std::vector<Sequence>& sequences) {
  if (!options.prefix || options.prefix->size() != sequences.size()) return false;
  return std::equal(sequences.begin(), sequences.end(), options.prefix->begin(),
                    [](const Sequence& sequence, std::int64_t prefix) {
                      return sequence.rows == 0 || prefix_fits(prefix, sequence);
                    });
}

void apply_sparse_mode(const FusionAttentionOptions& options, Layout layout, Problem& problem) {
  check_mode(options, layout);
  if (!options.atten_mask) return;  // full attention whatever the mode and the tokens say, as documented
  check_mask_type("atten_mask", options.atten_mask);
  const std::int64_t mode = options.sparse_mode;
  if (mode < 2 || mode == 5) {
    problem.overlay = overlay_of(options.atten_mask, layout, problem);
  } else {
    check_compressed_mask(options.atten_mask, mode);
  }
  const Tokens tokens = tokens_of(options);
  for (Sequence& sequence : problem.sequences) {
    check_sequence(mode, layout, tokens, sequence);
    sequence.band = band_of(mode, tokens.pre, tokens.next, sequence);
  }
  if (mode == 5) apply_mask_and_prefix(options, problem.sequences);
  if (mode == 6) apply_prefixes(options, problem.sequences);
  if (mode >= 7) apply_cut(mode, tokens, problem.sequences);
}

}  // namespace fusion_attention
