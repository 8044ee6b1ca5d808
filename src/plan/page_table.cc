#include "plan/page_table.h"

#include "problem/validate.h"

namespace fusion_attention::plan {

void PageTable::take(const Problem& problem) {
  entries_.clear();
  first_.clear();
  if (!problem.cache.pages) return;
  for (const Sequence& s : problem.sequences) {
    first_.push_back(entries_.size());
    append_pages(problem, s, entries_);
  }
  entries_.push_back(0);  // so that there is an address even without a page
}

}  // namespace fusion_attention::plan
