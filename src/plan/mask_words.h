// A dense mask that is the same for all heads, read once per run instead of once per head: as
// bits, an eighth of its bytes, with the band in them. Bit j of a word: the row sees key j of its step.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "fusion_attention/problem.h"
#include "plan/plan.h"

namespace fusion_attention::plan {

class MaskWords {
 public:
  // Decides which sequences have words and where; memory is reused from run to run.
  void take(const Problem& problem, const Plan::State& state);

  // Blocks of 32 rows to be made before any task begins, and one of them; any order, any thread.
  std::int64_t blocks() const { return blocks_; }
  void make(const Problem& problem, const Plan::State& state, std::int64_t block);

  // Of a sequence; null: it has none.
  const std::uint32_t* of(std::size_t sequence) const {
    return parts_.empty() || !parts_[sequence].made ? nullptr : words_.data() + parts_[sequence].first;
  }

 private:
  struct Part {
    bool made = false;
    std::size_t first = 0;  // word
    // Of the sequences before it and its own; it has none of its own where its words are another's.
    std::int64_t blocks = 0;
  };

  std::vector<std::uint32_t> words_;
  std::vector<Part> parts_;  // of each sequence
  std::int64_t blocks_ = 0;
};

}  // namespace fusion_attention::plan
