#include "plan/plan.h"

#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <set>
#include <sstream>

#include "base/math.h"
#include "plan/choose.h"
#include "plan/machine.h"

namespace fusion_attention {
namespace plan {

kernels::Shape shape_of(const Problem& problem, const Sequence& s) {
  const Overlay& mask = problem.overlay;
  return {.rows = s.rows,
          .keys = s.keys,
          .row0 = s.row0,
          .key0 = s.key0,
          .depth = problem.query.channels(),
          .value_depth = problem.value.channels(),
          .group = problem.group(),
          .scale = static_cast<float>(problem.scale),
          .band = s.band,
          .overlay = {mask ? mask.data + s.batch * mask.stride[0] : nullptr, mask.stride[1], mask.stride[2],
                      mask.stride[3]}};
}

std::size_t scratch_bytes(const Problem& problem, const kernels::Row& row,
                          const kernels::Blocking& blocking) {
  Sequence longest;  // scratch grows with the keys of a sequence (backward) and with nothing else of it
  for (const Sequence& s : problem.sequences)
    if (s.keys >= longest.keys) longest = s;
  const kernels::Shape shape = shape_of(problem, longest);
  return row.backward ? row.backward->scratch_bytes(shape, blocking)
                      : row.forward->scratch_bytes(shape, blocking);
}

void schedule(const Problem& problem, const kernels::Row& row, const kernels::Blocking& blocking, int threads,
              Schedule& out) {
  if (row.backward) {
    schedule_backward(problem, blocking, out);
  } else {
    schedule_forward(problem, blocking, threads, out);
  }
}

namespace {

// 32 × 32 tiles of one head by how much of them the band shows, over all sequences.
struct TileCounts {
  std::int64_t none = 0, part = 0, full = 0;
};
TileCounts count_tiles(const Problem& problem) {
  TileCounts counts;
  for (const Sequence& s : problem.sequences)
    for (std::int64_t row = 0; row < s.rows; row += 32) {
      const std::int64_t last = lesser(row + 32, s.rows) - 1, keys = s.key0 + s.keys;
      const Interval first_row = s.band.row(s.row0 + row, keys), last_row = s.band.row(s.row0 + last, keys);
      const auto local = [&](std::int64_t key) { return clamp(key - s.key0, 0, s.keys); };
      const Interval seen{local(first_row.begin), local(last_row.end)};  // by any row of the tile
      // A tile of the ragged edge is full when all of its real keys are visible.
      const std::int64_t all_begin = ceil_div(local(last_row.begin), 32);
      const std::int64_t all_end =
          local(first_row.end) == s.keys ? ceil_div(s.keys, 32) : local(first_row.end) / 32;
      const std::int64_t any = seen.empty() ? 0 : ceil_div(seen.end, 32) - seen.begin / 32;
      const std::int64_t full = problem.overlay ? 0 : clamp(all_end - all_begin, 0, any);
      counts.none += ceil_div(s.keys, 32) - any;
      counts.part += any - full;
      counts.full += full;
    }
  return counts;
}

std::size_t workspace_bytes(const Problem& problem, const Plan::State& state) {
  Schedule tasks;
  schedule(problem, *state.row, state.blocking, thread_count(), tasks);
  return scratch_bytes(problem, *state.row, state.blocking) * static_cast<std::size_t>(thread_count()) +
         static_cast<std::size_t>(tasks.partial_floats) * sizeof(float);
}

std::string describe(const Problem& problem, const Plan::State& state) {
  std::ostringstream out;
  Schedule tasks;
  schedule(problem, *state.row, state.blocking, thread_count(), tasks);
  const TileCounts tiles = count_tiles(problem);
  const kernels::Blocking& b = state.blocking;
  out << text(problem) << "\n  kernel     " << state.row->name << "\n  blocking   " << b.rows
      << " rows, chunks of " << b.keys << " keys, O every " << b.round_trip << " keys\n  tiles      "
      << tiles.none << " none, " << tiles.part << " part, " << tiles.full
      << " full (32 × 32, per head, by the band"
      << (problem.overlay ? "; the dense mask makes every visible tile part" : "") << ")\n  schedule   "
      << tasks.tasks.size() << " tasks, " << tasks.merges.size() << " merges, " << thread_count()
      << " threads\n  workspace  " << workspace_bytes(problem, state) << " bytes\n  passed over\n";
  for (const Candidate& candidate : weigh(problem))
    if (!candidate.passed_over.empty() && candidate.row->dtype == problem.query.dtype)
      out << "    " << candidate.row->name << ": " << candidate.passed_over << "\n";
  return out.str();
}

// FUSION_ATTENTION_VERBOSE=1: each distinct plan once, on stderr.
void print_once(const Problem& problem, const Plan::State& state) {
  const char* verbose = std::getenv("FUSION_ATTENTION_VERBOSE");
  if (!verbose || !*verbose || *verbose == '0') return;
  static std::mutex mutex;
  static std::set<std::string> seen;
  const std::string line = text(problem);
  const std::lock_guard<std::mutex> lock(mutex);
  if (seen.insert(line + state.row->name).second) std::fputs(describe(problem, state).c_str(), stderr);
}

}  // namespace

Plan::State choose_state(const Problem& problem) {
  validate(problem);
  Plan::State state;
  state.row = &choose(problem);
  state.blocking = blocking_for(*state.row, problem.query.channels(), problem.value.channels());
  print_once(problem, state);
  return state;
}

}  // namespace plan

const char* Plan::kernel() const {
  return state_->row->name;
}
std::size_t Plan::workspace_bytes() const {
  return state_->workspace;
}

Plan make_plan(const Problem& problem) {
  auto state = std::make_shared<Plan::State>(plan::choose_state(problem));
  state->workspace = plan::workspace_bytes(problem, *state);
  return Plan(std::move(state));
}

std::string explain(const Problem& problem) {
  return plan::describe(problem, plan::choose_state(problem));
}

}  // namespace fusion_attention
