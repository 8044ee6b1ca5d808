#include "fusion_attention/run.h"
#include "problem/validate.h"
#include "ref/exact.h"

namespace fusion_attention {

void run_reference(const Problem& problem) {
  validate(problem);
  validate_memory(problem);
  if (problem.pass == Pass::backward) return ref::backward(problem);
  if (!problem.cache.pages) return ref::forward(problem);
  Problem checked = problem;
  std::vector<std::int32_t> pages;
  for (Sequence& s : checked.sequences) {
    const auto first = static_cast<std::int64_t>(pages.size());
    append_pages(problem, s, pages);
    s.page = first;
  }
  checked.cache.pages = {pages.data(), static_cast<std::int64_t>(pages.size())};
  ref::forward(checked);
}

}  // namespace fusion_attention
