#include "plan/plan.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <mutex>
#include <set>
#include <sstream>

#include "base/environment.h"
#include "base/math.h"
#include "fusion_attention/error.h"
#include "plan/choose.h"
#include "plan/machine.h"
#include "plan/tiles.h"

namespace fusion_attention {
namespace plan {

namespace {

kernels::BiasPlane bias_of(const Problem& problem, const Sequence& s) {
  const Bias& b = problem.bias;
  if (!b) return {};
  return {.kind = b.kind,
          .data = b.data ? static_cast<const std::byte*>(b.data) + s.bias.base * size_of(b.dtype) : nullptr,
          .of_query_dtype = b.dtype == problem.query.dtype,
          .before_scale = b.before_scale,
          .head = s.bias.head,
          .row = s.bias.row,
          .last_rows = b.last_rows,
          .shift = s.bias_shift,
          .gradient = b.gradient ? b.gradient + s.bias.base : nullptr};
}

kernels::DropoutPlane dropout_of(const Problem& problem, const Sequence& s) {
  const Dropout& d = problem.dropout;
  if (!d) return {};
  // What a word must reach, in float as the documents round it; the product with 2^23 is exact.
  const float drop = 1.0f - static_cast<float>(d.keep_prob);
  return {.on = true,
          .seed = d.seed,
          .offset = d.offset,
          .threshold = static_cast<std::uint32_t>(std::ceil(static_cast<double>(drop) * 0x1p23)),
          .bits = d.bits,
          .bytes = static_cast<std::uint64_t>(d.bytes),
          .base = static_cast<std::uint64_t>(s.dropout.base),
          .head = s.dropout.head,
          .row = s.dropout.row,
          .inverse_keep = 1.0f / static_cast<float>(d.keep_prob)};
}

}  // namespace

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
                      mask.stride[3]},
          .bias = bias_of(problem, s),
          .dropout = dropout_of(problem, s),
          .sink = problem.sink.data,
          .half_scores = problem.half_scores};
}

namespace {

std::size_t times(std::size_t a, std::size_t b) {
  std::size_t product = 0;
  if (__builtin_mul_overflow(a, b, &product) || product > std::numeric_limits<std::size_t>::max() / 4)
    throw Error(ErrorKind::memory, "workspace", "more bytes than an address space holds",
                "what the system can allocate");
  return product;
}

// The largest scratch that any task needs.
std::size_t scratch_bytes(const Problem& problem, const Plan::State& state, const Schedule& tasks) {
  Sequence longest;  // scratch grows with the keys of a task (backward) and with nothing else of it
  for (const Sequence& s : problem.sequences)
    if (s.keys >= longest.keys) longest = s;
  kernels::Shape shape = shape_of(problem, longest);
  if (state.row->backward) shape.keys = tasks.task_keys;
  if (state.row->backward) return state.row->backward->scratch_bytes(shape, state.blocking);
  const std::size_t decode =
      state.decode ? state.decode->forward->scratch_bytes(shape, state.decode_blocking) : 0;
  return std::max(decode, state.row->forward->scratch_bytes(shape, state.blocking));
}

}  // namespace

Workspace schedule(const Problem& problem, const Plan::State& state, int threads, Schedule& out) {
  threads = useful_threads(problem, threads);
  if (state.row->backward) {
    schedule_backward(problem, state.blocking, threads, out);
  } else {
    schedule_forward(problem, state.blocking, state.decode_blocking, threads, out);
  }
  const auto floats = [](std::int64_t n) { return times(static_cast<std::size_t>(n), sizeof(float)); };
  const auto lines = [](std::size_t bytes) { return times((bytes + 63) / 64, 64); };
  Workspace w;
  w.workers = static_cast<int>(
      clamp(static_cast<std::int64_t>(std::max(out.tasks.size(), out.merges.size())), 1, threads));
  w.chain = lines(scratch_bytes(problem, state, out));
  w.scratch = w.chain + lines(floats(out.chain_floats));
  w.bytes = times(w.scratch, static_cast<std::size_t>(w.workers)) + lines(floats(out.partial_floats));
  return w;
}

namespace {

// `few`: the rows that its decode kernel takes.
kernels::Algorithm algorithm_of(const Problem& problem, std::int64_t few) {
  if (problem.pass == Pass::backward) return kernels::Algorithm::backward;
  if (problem.query.dtype == Dtype::int8) return kernels::Algorithm::integer;
  for (const Sequence& s : problem.sequences)
    if (!is_short(problem, s, few)) return kernels::Algorithm::forward;
  return kernels::Algorithm::decode;
}

bool any_short(const Problem& problem, std::int64_t few) {
  for (const Sequence& s : problem.sequences)
    if (s.rows > 0 && is_short(problem, s, few)) return true;
  return false;
}

std::string describe(const Problem& problem, const Plan::State& state) {
  std::ostringstream out;
  Schedule tasks;
  const Workspace memory = schedule(problem, state, thread_count(), tasks);
  const TileCounts tiles = count_tiles(problem);
  const kernels::Blocking& b = state.blocking;
  out << text(problem) << "\n  kernel     " << state.row->name;
  if (state.decode && state.decode != state.row) out << "; " << state.decode->name << " for short sequences";
  out << "\n  blocking   " << b.rows << " rows, chunks of " << b.keys << " keys, O every " << b.round_trip
      << " keys\n  tiles      " << tiles.none << " none, " << tiles.part << " part, " << tiles.full
      << " full (32 × 32, per head, by the band"
      << (problem.overlay ? "; the dense mask lowers them to part or none" : "") << ")\n  schedule   "
      << tasks.tasks.size() << " tasks, " << tasks.merges.size() << " merges, " << memory.workers << " of "
      << thread_count() << " threads\n  workspace  " << memory.bytes << " bytes\n  passed over\n";
  const kernels::Algorithm algorithm = algorithm_of(problem, state.decode_blocking.rows);
  for (const Candidate& candidate : weigh(algorithm, problem.query.dtype))
    if (!candidate.passed_over.empty() && candidate.row->dtype == problem.query.dtype)
      out << "    " << candidate.row->name << ": " << candidate.passed_over << "\n";
  return out.str();
}

// FUSION_ATTENTION_VERBOSE=1: each distinct plan once, on stderr.
void print_once(const Problem& problem, const Plan::State& state) {
  const char* verbose = environment("FUSION_ATTENTION_VERBOSE");
  if (!verbose || *verbose == '0') return;
  static std::mutex mutex;
  static std::set<std::string> seen;
  const std::string line = text(problem);
  const std::lock_guard<std::mutex> lock(mutex);
  if (seen.insert(line + state.row->name).second) std::fputs(describe(problem, state).c_str(), stderr);
}

}  // namespace

Plan::State choose_state(const Problem& problem) {
  validate(problem);
  const Dtype dtype = problem.query.dtype;
  const auto blocking = [&](const kernels::Row& row) {
    return blocking_for(row, problem.query.channels(), problem.value.channels());
  };
  Plan::State state;
  if (any_short(problem, kernels::kDecodeRows)) {
    const kernels::Row& decode = choose(kernels::Algorithm::decode, dtype);
    state.decode_blocking = blocking(decode);
    if (any_short(problem, state.decode_blocking.rows)) state.decode = &decode;
  }
  state.row = &choose(algorithm_of(problem, state.decode_blocking.rows), dtype);
  state.blocking = blocking(*state.row);
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
  plan::Schedule tasks;
  state->workspace = plan::schedule(problem, *state, thread_count(), tasks).bytes;
  return Plan(std::move(state));
}

std::string explain(const Problem& problem) {
  return plan::describe(problem, plan::choose_state(problem));
}

}  // namespace fusion_attention
