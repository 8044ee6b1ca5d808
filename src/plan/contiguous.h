// Kernels read and write channels that lie side by side. Operands whose channel stride is not 1 are copied:
// inputs before, outputs after.
#pragma once

#include <cstring>
#include <functional>
#include <vector>

#include "fusion_attention/problem.h"

namespace fusion_attention::plan {

// Calls compute(p), where p is `problem` with every such view replaced by a contiguous copy.
template <class Compute>
void with_contiguous_channels(const Problem& problem, Compute&& compute);

namespace detail {

bool contiguous_channels(const TensorView& view);

// A contiguous view of the same shape in `storage`.
TensorView contiguous_like(const TensorView& view, std::vector<std::byte>& storage);

void copy(const TensorView& from, const TensorView& to);

}  // namespace detail

template <class Compute>
void with_contiguous_channels(const Problem& problem, Compute&& compute) {
  const bool backward = problem.pass == Pass::backward;
  TensorView Problem::* const inputs[] = {&Problem::query, &Problem::key, &Problem::value, &Problem::output,
                                          &Problem::output_gradient};
  TensorView Problem::* const gradients[] = {&Problem::query_gradient, &Problem::key_gradient,
                                             &Problem::value_gradient};
  TensorView Cache::* const cached[] = {&Cache::prefix_key, &Cache::prefix_value, &Cache::key_rope,
                                        &Cache::prefix_key_rope};
  const auto copied = [&](TensorView Problem::* view) { return !detail::contiguous_channels(problem.*view); };
  const auto apart = [&](TensorView Cache::* view) { return !detail::contiguous_channels(problem.cache.*view); };
  bool any = false;
  for (auto view : inputs) any |= copied(view);
  for (auto view : gradients) any |= copied(view);
  for (auto view : cached) any |= apart(view);
  if (!any) return compute(problem);

  Problem p = problem;
  std::vector<std::byte> storage[12];
  int used = 0;
  for (auto view : inputs) {
    if (!copied(view)) continue;
    p.*view = detail::contiguous_like(problem.*view, storage[used++]);
    if (backward || view != &Problem::output) detail::copy(problem.*view, p.*view);
  }
  for (auto view : cached) {
    if (!apart(view)) continue;
    p.cache.*view = detail::contiguous_like(problem.cache.*view, storage[used++]);
    detail::copy(problem.cache.*view, p.cache.*view);
  }
  for (auto view : gradients)
    if (copied(view)) p.*view = detail::contiguous_like(problem.*view, storage[used++]);
  compute(static_cast<const Problem&>(p));
  if (!backward && copied(&Problem::output)) detail::copy(p.output, problem.output);
  for (auto view : gradients)
    if (copied(view)) detail::copy(p.*view, problem.*view);
}

}  // namespace fusion_attention::plan
