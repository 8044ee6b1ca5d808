// What a Plan holds: the choice for a shape class. The schedule is computed by run() into reused memory,
// because the lengths of a decode grow with every step.
#pragma once

#include <string>

#include "fusion_attention/run.h"
#include "kernels/kernels.h"
#include "plan/schedule.h"

namespace fusion_attention {

struct Plan::State {
  const kernels::Row* row = nullptr;
  kernels::Blocking blocking;
  std::size_t workspace = 0;
};

namespace plan {

// One sequence of a problem, as the kernels see it.
kernels::Shape shape_of(const Problem& problem, const Sequence& sequence);

// The largest scratch that any task needs.
std::size_t scratch_bytes(const Problem& problem, const kernels::Row& row, const kernels::Blocking& blocking);

// Validates and chooses: everything of a plan but its workspace.
Plan::State choose_state(const Problem& problem);

void schedule(const Problem& problem, const kernels::Row& row, const kernels::Blocking& blocking, int threads,
              Schedule& out);

}  // namespace plan
}  // namespace fusion_attention
