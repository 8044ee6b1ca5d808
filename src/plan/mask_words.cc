#include "plan/mask_words.h"

#include <algorithm>

#include "base/math.h"

namespace fusion_attention::plan {
namespace {

// Words of all sequences at most, 16 MiB: beyond that the memory costs more than reading the mask per head.
constexpr std::size_t kMostWords = std::size_t{1} << 22;

kernels::Show show_of(const Plan::State& state) {
  const kernels::Row& row = *state.row;
  return row.backward ? row.backward->show : row.forward ? row.forward->show : nullptr;
}

// Whether its kernel reads words: a forward puts several heads of few rows into one block, and a decode reads
// the mask as it lies.
bool reads_words(const Problem& problem, const Plan::State& state, const Sequence& s) {
  return state.row->backward || (s.rows >= 32 && !state.decodes(problem, s));
}

bool alike(const Problem& problem, const Sequence& a, const Sequence& b) {
  return (a.batch == b.batch || problem.overlay.stride[0] == 0) && a.rows == b.rows && a.keys == b.keys &&
         a.row0 == b.row0 && a.key0 == b.key0 && a.band == b.band;
}

}  // namespace

void MaskWords::take(const Problem& problem, const Plan::State& state) {
  parts_.clear();
  blocks_ = 0;
  const Overlay& mask = problem.overlay;
  // Who would read the mask: every query head in a backward, the kv heads in a forward.
  const std::int64_t readers = state.row->backward ? problem.query.heads() : problem.key.heads();
  if (!mask || mask.stride[1] != 0 || readers < 2 || !show_of(state)) return;
  std::size_t words = 0;
  for (const Sequence& s : problem.sequences) {
    Part part{.first = words, .blocks = blocks_};
    const Sequence* before = parts_.empty() ? nullptr : &s - 1;
    if (before && parts_.back().made && alike(problem, *before, s)) {
      part = parts_.back();
    } else if (reads_words(problem, state, s)) {
      part.made = true;
      words += static_cast<std::size_t>(round_up(s.rows, 32) * round_up(s.keys, 32) / 32);
      part.blocks = blocks_ += ceil_div(s.rows, 32);
    }
    parts_.push_back(part);
  }
  if (words > kMostWords) {
    parts_.clear();
    blocks_ = 0;
    return;
  }
  words_.resize(words);
}

void MaskWords::make(const Problem& problem, const Plan::State& state, std::int64_t block) {
  const auto part = std::upper_bound(parts_.begin(), parts_.end(), block,
                                     [](std::int64_t b, const Part& p) { return b < p.blocks; });
  const Sequence& s = problem.sequences[static_cast<std::size_t>(part - parts_.begin())];
  const std::int64_t row = (block - (part->blocks - ceil_div(s.rows, 32))) * 32;
  show_of(state)(shape_of(problem, s), row, words_.data() + part->first + row / 32 * round_up(s.keys, 32));
}

}  // namespace fusion_attention::plan
