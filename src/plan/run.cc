// Validate, allocate, compute: in this order, so that a failure leaves every output untouched.
#include <algorithm>
#include <atomic>
#include <cfloat>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

#include "arch/float_mode.h"
#include "base/cores.h"
#include "base/math.h"
#include "base/parallel.h"
#include "fusion_attention/error.h"
#include "plan/contiguous.h"
#include "plan/plan.h"
#include "plan/uncovered.h"
#include "problem/validate.h"

namespace fusion_attention {
namespace {

std::atomic<int> chosen_threads{0};

// Memory of one calling thread, reused from call to call; 64-byte aligned. What a large call left is given
// back by the next small one.
class Arena {
 public:
  ~Arena() { std::free(data_); }

  std::byte* take(std::size_t bytes) {
    constexpr std::size_t kKeep = std::size_t{64} << 20;
    if (bytes > size_ || (size_ > kKeep && bytes < kKeep)) {
      std::free(data_);
      size_ = 0;
      data_ = static_cast<std::byte*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64));
      if (!data_)
        throw Error(ErrorKind::memory, "workspace", std::to_string(bytes) + " bytes",
                    "what the system can allocate");
      size_ = bytes;
    }
    return data_;
  }

 private:
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

std::size_t checked(std::size_t a, std::size_t b) {
  std::size_t product = 0;
  if (__builtin_mul_overflow(a, b, &product))
    throw Error(ErrorKind::memory, "workspace", "more bytes than an address holds",
                "what the system can allocate");
  return product;
}

// The part of a view that belongs to one sequence; `first` is its first row (key) on the row axis.
kernels::Operand operand(const TensorView& view, const Sequence& s, std::int64_t first) {
  const std::int64_t size = size_of(view.dtype);
  return {view.data ? static_cast<std::byte*>(view.data) +
                          (s.batch * view.stride[0] + first * view.stride[2]) * size
                    : nullptr,
          view.stride[1] * size, view.stride[2] * size};
}

kernels::StatisticsPlane statistics(const Problem& problem, const Sequence& s, std::int64_t rows_before) {
  const Statistics& all = problem.statistics;
  const std::int64_t heads = problem.query.heads(), base = rows_before * heads * all.copies;
  const bool head_major = all.order == StatisticsOrder::head_major;
  return {all.max ? all.max + base : nullptr, all.sum ? all.sum + base : nullptr, head_major ? s.rows : 1,
          head_major ? 1 : heads, all.copies};
}

// Resolves a task into what its kernel takes, when it starts: sequences may be many.
class Execution {
 public:
  Execution(const Problem& problem, const Plan::State& state, const plan::Schedule& schedule,
            const std::vector<std::int64_t>& rows_before, std::byte* scratch, std::size_t scratch_bytes,
            float* partials)
      : problem_(problem),
        state_(state),
        schedule_(schedule),
        rows_before_(rows_before),
        scratch_(scratch),
        scratch_bytes_(scratch_bytes),
        partials_(partials) {}

  void task(std::int64_t index, int worker) const {
    const arch::FloatMode mode;
    const plan::Task& t = schedule_.tasks[static_cast<std::size_t>(index)];
    std::byte* scratch = scratch_ + static_cast<std::size_t>(worker) * scratch_bytes_;
    float* partial = t.partial < 0 ? nullptr : partials_ + t.partial;
    if (state_.row->backward) {
      state_.row->backward->run(backward_args(t.sequence), {t.kv_head, t.row_begin, t.row_end, partial},
                                scratch);
    } else {
      state_.row->forward->run(forward_args(t.sequence),
                               {t.kv_head, t.row_begin, t.row_end, t.key_begin, t.key_end, partial}, scratch);
    }
  }

  void merge(std::int64_t index) const {
    const arch::FloatMode mode;
    const plan::Merge& m = schedule_.merges[static_cast<std::size_t>(index)];
    const float* partials = partials_ + m.partial;
    if (state_.row->backward) {
      state_.row->backward->merge(backward_args(m.sequence), {m.kv_head, m.begin, m.end, partials, m.splits});
    } else {
      state_.row->forward->merge(forward_args(m.sequence), {m.kv_head, m.begin, m.end, partials, m.splits});
    }
  }

 private:
  const Sequence& sequence(std::int64_t index) const {
    return problem_.sequences[static_cast<std::size_t>(index)];
  }

  kernels::ForwardArgs forward_args(std::int64_t index) const {
    const Sequence& s = sequence(index);
    return {.shape = plan::shape_of(problem_, s),
            .query = operand(problem_.query, s, s.row),
            .key = operand(problem_.key, s, s.key),
            .value = operand(problem_.value, s, s.key),
            .output = operand(problem_.output, s, s.row),
            .statistics = statistics(problem_, s, rows_before_[static_cast<std::size_t>(index)]),
            .blocking = state_.blocking};
  }

  kernels::BackwardArgs backward_args(std::int64_t index) const {
    const Sequence& s = sequence(index);
    return {.shape = plan::shape_of(problem_, s),
            .query = operand(problem_.query, s, s.row),
            .key = operand(problem_.key, s, s.key),
            .value = operand(problem_.value, s, s.key),
            .output = operand(problem_.output, s, s.row),
            .output_gradient = operand(problem_.output_gradient, s, s.row),
            .query_gradient = operand(problem_.query_gradient, s, s.row),
            .key_gradient = operand(problem_.key_gradient, s, s.key),
            .value_gradient = operand(problem_.value_gradient, s, s.key),
            .statistics = statistics(problem_, s, rows_before_[static_cast<std::size_t>(index)]),
            .blocking = state_.blocking};
  }

  const Problem& problem_;
  const Plan::State& state_;
  const plan::Schedule& schedule_;
  const std::vector<std::int64_t>& rows_before_;
  std::byte* scratch_;
  std::size_t scratch_bytes_;
  float* partials_;
};

void execute(const Plan::State& state, const Problem& problem) {
  thread_local Arena arena;
  thread_local plan::Schedule schedule;
  thread_local std::vector<std::int64_t> rows_before;

  const int threads = thread_count();
  plan::schedule(problem, *state.row, state.blocking, threads, schedule);
  rows_before.clear();
  std::int64_t rows = 0;
  for (const Sequence& s : problem.sequences) {
    rows_before.push_back(rows);
    rows += s.rows;
  }
  const std::size_t scratch =
      round_up(static_cast<std::int64_t>(plan::scratch_bytes(problem, *state.row, state.blocking)), 64);
  const std::size_t workers = checked(scratch, static_cast<std::size_t>(threads));
  std::byte* memory =
      arena.take(workers + static_cast<std::size_t>(schedule.partial_floats) * sizeof(float) + 64);

  const Execution execution(problem, state, schedule, rows_before, memory, scratch,
                            reinterpret_cast<float*>(memory + workers));
  // A nested call on this thread would reuse the arena; parallel_for bodies never call back into run().
  parallel_for(static_cast<std::int64_t>(schedule.tasks.size()), threads,
               [&](std::int64_t task, int worker) { execution.task(task, worker); });
  parallel_for(static_cast<std::int64_t>(schedule.merges.size()), threads,
               [&](std::int64_t merge, int) { execution.merge(merge); });
  plan::fill_uncovered(problem, rows);
}

}  // namespace

void run(const Plan& plan, const Problem& problem) {
  validate(problem);
  validate_memory(problem);
  plan::with_contiguous_channels(problem, [&](const Problem& p) { execute(plan.state(), p); });
}

void run(const Problem& problem) {
  const Plan::State state = plan::choose_state(problem);
  validate_memory(problem);
  plan::with_contiguous_channels(problem, [&](const Problem& p) { execute(state, p); });
}

int thread_count() {
  if (const int set = chosen_threads.load(std::memory_order_relaxed)) return set;
  static const int cores = available_cores();
  const char* text = std::getenv("FUSION_ATTENTION_NUM_THREADS");
  const long wanted = text ? std::strtol(text, nullptr, 10) : 0;
  return wanted >= 1 && wanted <= 4096 ? static_cast<int>(wanted) : cores;
}

void set_thread_count(int threads) {
  chosen_threads.store(std::max(threads, 0), std::memory_order_relaxed);
}

}  // namespace fusion_attention
