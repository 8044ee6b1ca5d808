// From a Problem to numbers: plan once, run many; or both at once.
#pragma once

#include <cstddef>
#include <iosfwd>
#include <memory>
#include <string>

#include "fusion_attention/problem.h"

namespace fusion_attention {

// How a problem will be computed: kernel row, blocking, schedule, workspace size, and why every
// other kernel row was passed over. Immutable; holds no pointer of the problem it was made from,
// so it serves any problem of the same text line.
class Plan {
 public:
  struct State;  // plan/plan.h

  explicit Plan(std::shared_ptr<const State> state) : state_(std::move(state)) {}

  const char* kernel() const;           // the name in the list of kernels
  std::size_t workspace_bytes() const;  // for the number of threads set when it was made
  const State& state() const { return *state_; }

 private:
  std::shared_ptr<const State> state_;
};

// Throws Error (see validate). FUSION_ATTENTION_MAX_ISA, FUSION_ATTENTION_KERNEL and
// FUSION_ATTENTION_NUM_THREADS act here; FUSION_ATTENTION_VERBOSE=1 prints each distinct plan once.
Plan make_plan(const Problem& problem);

// For people, several lines: the problem, the kernel, why each other kernel of its dtype was passed over,
// tiles none / part / full, tasks, workspace.
std::string explain(const Problem& problem);

// Computes. Outputs are written only after every check and every allocation has succeeded.
// The result is bitwise the same for every number of threads. Safe to call from any thread.
void run(const Plan& plan, const Problem& problem);

// make_plan(problem), then run, without keeping the plan.
void run(const Problem& problem);

// The fp64 reference: plain loops, shares no code with the kernels. Same contract as run.
void run_reference(const Problem& problem);

// The number of threads the next call will use, and a way to set it for the whole process. 0: what
// FUSION_ATTENTION_NUM_THREADS says, else the cores this process may use. Clamped to 0 ... 4096.
int thread_count();
void set_thread_count(int threads);

}  // namespace fusion_attention
