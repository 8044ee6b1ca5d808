// What a Plan holds: the choice for a shape class. The schedule is computed by run() into reused memory,
// because the lengths of a decode grow with every step.
#pragma once

#include <string>

#include "fusion_attention/run.h"
#include "kernels/kernels.h"
#include "plan/schedule.h"

namespace fusion_attention {

struct Plan::State {
  const kernels::Row* row = nullptr;  // for the longest sequence; the plan's name
  kernels::Blocking blocking;
  // Forward: for the sequences with few query rows, whatever they are batched with. Null without any.
  const kernels::Row* decode = nullptr;
  kernels::Blocking decode_blocking;
  std::size_t workspace = 0;

  // Whether a sequence runs on `decode`.
  bool decodes(const Problem& problem, const Sequence& sequence) const {
    return decode && plan::is_short(problem, sequence, decode_blocking.rows);
  }
};

namespace plan {

// One sequence of a problem, as the kernels see it.
kernels::Shape shape_of(const Problem& problem, const Sequence& sequence);

// Validates and chooses: everything of a plan but its workspace.
Plan::State choose_state(const Problem& problem);

// How the tasks of a problem are carried out by `threads` threads at most: their number, their memory.
struct Workspace {
  int workers = 1;
  std::size_t scratch = 0;  // bytes of a worker: what its kernel asks for, then the floats of a chain
  std::size_t chain = 0;    // where these begin
  std::size_t bytes = 0;    // the scratch of all workers, then the partials
};

// Fills the schedule. Throws Error when no address space holds the workspace.
Workspace schedule(const Problem& problem, const Plan::State& state, int threads, Schedule& out);

}  // namespace plan
}  // namespace fusion_attention
