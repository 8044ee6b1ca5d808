// The entries of a page table that one run reads: checked and copied at once, because the caller may write
// the table meanwhile. A family checks its own copy before that, in the words of its interface; a run cannot
// rely on it, since a Problem is anybody's and is run again after its table has changed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "fusion_attention/problem.h"

namespace fusion_attention::plan {

class PageTable {
 public:
  // Throws Error on an entry that is no page. Memory is reused from run to run.
  void take(const Problem& problem);

  // Entries of a sequence, from its first key behind the prefix on; null without pages.
  const std::int32_t* of(std::size_t sequence) const {
    return first_.empty() ? nullptr : entries_.data() + first_[sequence];
  }

 private:
  std::vector<std::int32_t> entries_;
  std::vector<std::size_t> first_;  // of each sequence
};

}  // namespace fusion_attention::plan
