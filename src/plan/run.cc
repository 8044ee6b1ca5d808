// Validate, allocate, compute: in this order, so that a failure leaves every output untouched.
#include <algorithm>
#include <cstdlib>
#include <new>
#include <vector>

#include "arch/float_mode.h"
#include "base/nodes.h"
#include "base/parallel.h"
#include "fusion_attention/error.h"
#include "plan/contiguous.h"
#include "plan/keys.h"
#include "plan/mask_words.h"
#include "plan/node_lists.h"
#include "plan/page_table.h"
#include "plan/plan.h"
#include "plan/sink.h"
#include "plan/uncovered.h"
#include "problem/validate.h"

namespace fusion_attention {
namespace {

// Memory of one calling thread, reused from call to call; 64-byte aligned. What a large call left is given
// back by the next small one.
class Arena {
 public:
  ~Arena() { std::free(data_); }

  std::byte* take(std::size_t bytes) {
    constexpr std::size_t kKeep = std::size_t{64} << 20;
    if (bytes <= size_ && (size_ <= kKeep || bytes >= kKeep)) return data_;
    std::free(data_);
    size_ = 0;
    // A quarter more than asked for: the lengths of a decode grow with every step.
    const std::size_t size = (bytes + (bytes < kKeep ? bytes / 4 : 0) + 64) / 64 * 64;
    data_ = static_cast<std::byte*>(std::aligned_alloc(64, size));
    if (!data_)
      throw Error(ErrorKind::memory, "workspace", std::to_string(bytes) + " bytes",
                  "what the system can allocate");
    size_ = size;
    return data_;
  }

 private:
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

kernels::StatisticsPlane statistics(const Problem& problem, const Sequence& s, std::int64_t rows_before) {
  const Statistics& all = problem.statistics;
  const std::int64_t heads = problem.query.heads(), base = rows_before * heads * all.copies;
  const bool head_major = all.order == StatisticsOrder::head_major;
  return {all.max ? all.max + base : nullptr, all.sum ? all.sum + base : nullptr, head_major ? s.rows : 1,
          head_major ? 1 : heads, all.copies};
}

kernels::OutputScale output_scale(const Problem& problem) {
  const OutputScaling& all = problem.output_scaling;
  const bool per_channel = all.channels > 1;
  return {all.scale, all.offset, per_channel ? problem.value.channels() : 0, per_channel ? 1 : 0};
}

// Resolves a task into what its kernel takes, when it starts: sequences may be many.
class Execution {
 public:
  Execution(const Problem& problem, const Plan::State& state, const plan::Schedule& schedule,
            const std::vector<std::int64_t>& rows_before, const plan::PageTable& pages,
            plan::MaskWords& mask_words, const plan::Workspace& workspace, std::byte* memory)
      : problem_(problem),
        state_(state),
        schedule_(schedule),
        rows_before_(rows_before),
        pages_(pages),
        mask_words_(mask_words),
        workspace_(workspace),
        memory_(memory) {}

  // One block of the words of the mask, before any task.
  void show(std::int64_t block) const { mask_words_.make(problem_, state_, block); }

  // Every task, on machines of several memory nodes those of a kv head on one of them.
  void tasks() const {
    const auto count = static_cast<std::int64_t>(schedule_.tasks.size());
    if (workspace_.workers == 1 || nodes().count == 1) {
      parallel_for(count, workspace_.workers,
                   [this](std::int64_t index, int worker) { task(index, worker); });
      return;
    }
    thread_local plan::NodeLists lists;
    plan::divide_among_nodes(schedule_, static_cast<std::int64_t>(problem_.sequences.size()),
                             problem_.key.heads(), nodes().count, lists);
    parallel_for(
        lists.ends.data(), nodes().count, workspace_.workers,
        [this, order = lists.order.data()](std::int64_t place, int worker) { task(order[place], worker); });
  }

  void task(std::int64_t index, int worker) const {
    const arch::FloatMode mode;
    const plan::Task& t = schedule_.tasks[static_cast<std::size_t>(index)];
    std::byte* scratch = memory_ + static_cast<std::size_t>(worker) * workspace_.scratch;
    float* partial = t.partial < 0 ? nullptr : partials() + t.partial;
    if (t.chain > 1) {
      chain(t, scratch);
    } else if (state_.row->backward) {
      state_.row->backward->run(backward_args(t.sequence),
                                {t.kv_head,
                                 t.row_begin,
                                 t.row_end,
                                 t.key_begin,
                                 t.key_end,
                                 {.data = partial, .key_begin = t.key_begin, .key_end = t.key_end}},
                                scratch);
    } else {
      kernel_of(t.sequence)
          .forward->run(forward_args(t.sequence),
                        {t.kv_head, t.row_begin, t.row_end, t.key_begin, t.key_end, partial}, scratch);
    }
  }

  // The tasks of one owner, in order.
  void owner(std::int64_t index, int worker) const {
    const auto at = static_cast<std::size_t>(index);
    for (std::int64_t task = at == 0 ? 0 : schedule_.owners[at - 1]; task < schedule_.owners[at]; ++task)
      this->task(task, worker);
  }

  void merge(std::int64_t index) const {
    const arch::FloatMode mode;
    const plan::Merge& m = schedule_.merges[static_cast<std::size_t>(index)];
    const float* from = partials() + m.partial;
    if (state_.row->backward) {
      state_.row->backward->merge(backward_args(m.sequence),
                                  {m.kv_head, m.begin, m.end, from, splits(m.split), m.splits});
    } else {
      kernel_of(m.sequence)
          .forward->merge(forward_args(m.sequence), {m.kv_head, m.begin, m.end, from, m.splits});
    }
  }

 private:
  float* partials() const {
    return reinterpret_cast<float*>(memory_ +
                                    static_cast<std::size_t>(workspace_.workers) * workspace_.scratch);
  }

  // The splits of one head one after the other. Each share is computed from zero and added in index order:
  // the sums, and the bits, of splits side by side.
  void chain(const plan::Task& t, std::byte* scratch) const {
    const kernels::BackwardArgs args = backward_args(t.sequence);
    const std::int64_t keys = args.shape.keys;
    float* sum = reinterpret_cast<float*>(scratch + workspace_.chain);
    std::fill_n(sum, keys * (args.shape.depth + args.shape.value_depth), 0.0f);
    const kernels::BackwardSplit *first = splits(t.split), *last = first + t.chain - 1;
    std::int64_t row = t.row_begin;
    for (const kernels::BackwardSplit* split = first; split <= last; ++split) {
      const kernels::GradientShare share{.data = sum, .key_end = keys, .add = true, .last = split == last};
      state_.row->backward->run(
          args, {t.kv_head, row, split->row_end, split->key_begin, split->key_end, share}, scratch);
      row = split->row_end;
    }
    // The keys that the last split has not seen.
    const kernels::BackwardSplit whole{.row_end = t.row_end, .key_end = keys};
    for (const Interval& rest : {Interval{0, last->key_begin}, Interval{last->key_end, keys}})
      state_.row->backward->merge(args, {t.kv_head, rest.begin, rest.end, sum, &whole, 1});
  }
  const kernels::BackwardSplit* splits(std::int64_t first) const { return schedule_.splits.data() + first; }

  // The row that a sequence of a forward runs on.
  const kernels::Row& kernel_of(std::int64_t index) const {
    return state_.decodes(problem_, sequence(index)) ? *state_.decode : *state_.row;
  }
  const Sequence& sequence(std::int64_t index) const {
    return problem_.sequences[static_cast<std::size_t>(index)];
  }

  kernels::Shape shape(std::int64_t index) const {
    kernels::Shape shape = plan::shape_of(problem_, sequence(index));
    shape.overlay.words = mask_words_.of(static_cast<std::size_t>(index));
    return shape;
  }

  kernels::ForwardArgs forward_args(std::int64_t index) const {
    const Sequence& s = sequence(index);
    return {.shape = shape(index),
            .query = plan::operand(problem_.query, s, s.row),
            .output = plan::operand(problem_.output, s, s.row),
            .key = plan::key_source(problem_, s, pages_.of(static_cast<std::size_t>(index))),
            .value = plan::value_source(problem_, s, pages_.of(static_cast<std::size_t>(index))),
            .statistics = statistics(problem_, s, rows_before_[static_cast<std::size_t>(index)]),
            .output_scale = output_scale(problem_),
            .integer = problem_.integer,
            .blocking = &kernel_of(index) == state_.row ? state_.blocking : state_.decode_blocking};
  }

  kernels::BackwardArgs backward_args(std::int64_t index) const {
    const Sequence& s = sequence(index);
    return {.shape = shape(index),
            .query = plan::operand(problem_.query, s, s.row),
            .key = plan::operand(problem_.key, s, s.key),
            .value = plan::operand(problem_.value, s, s.key),
            .output = plan::operand(problem_.output, s, s.row),
            .output_gradient = plan::operand(problem_.output_gradient, s, s.row),
            .query_gradient = plan::operand(problem_.query_gradient, s, s.row),
            .key_gradient = plan::operand(problem_.key_gradient, s, s.key),
            .value_gradient = plan::operand(problem_.value_gradient, s, s.key),
            .statistics = statistics(problem_, s, rows_before_[static_cast<std::size_t>(index)]),
            .blocking = state_.blocking};
  }

  const Problem& problem_;
  const Plan::State& state_;
  const plan::Schedule& schedule_;
  const std::vector<std::int64_t>& rows_before_;
  const plan::PageTable& pages_;
  plan::MaskWords& mask_words_;
  const plan::Workspace& workspace_;
  std::byte* const memory_;
};

void execute(const Plan::State& state, const Problem& problem) {
  // A nested call on this thread would reuse them; the bodies of parallel_for never call back into run().
  thread_local Arena arena;
  thread_local plan::Schedule schedule;
  thread_local std::vector<std::int64_t> rows_before;
  thread_local plan::PageTable pages;
  thread_local plan::MaskWords mask_words;
  thread_local plan::Uncovered uncovered;

  const plan::Workspace workspace = plan::schedule(problem, state, thread_count(), schedule);
  rows_before.clear();
  std::int64_t rows = 0;
  for (const Sequence& s : problem.sequences) {
    rows_before.push_back(rows);
    rows += s.rows;
  }
  pages.take(problem);
  mask_words.take(problem, state);
  uncovered.find(problem);
  std::byte* memory = arena.take(workspace.bytes);

  const Execution execution(problem, state, schedule, rows_before, pages, mask_words, workspace, memory);
  if (problem.bias.gradient)
    std::fill_n(problem.bias.gradient, static_cast<std::size_t>(problem.bias.elements), 0.0f);
  parallel_for(mask_words.blocks(), workspace.workers,
               [&](std::int64_t block, int) { execution.show(block); });
  if (schedule.owners.empty()) {
    execution.tasks();
  } else {
    parallel_for(static_cast<std::int64_t>(schedule.owners.size()), workspace.workers,
                 [&](std::int64_t owner, int worker) { execution.owner(owner, worker); });
  }
  parallel_for(static_cast<std::int64_t>(schedule.merges.size()), workspace.workers,
               [&](std::int64_t merge, int) { execution.merge(merge); });
  uncovered.fill(problem);
  if (problem.sink.gradient) plan::sink_gradient(problem, rows_before);
}

[[noreturn]] void refuse_plan(const std::string& given) {
  throw Error(ErrorKind::value, "plan", given, "the plan of a problem of the same text line");
}

// A kernel is chosen for a pass, a dtype and, in decode, few rows; it has no other failing path.
void check_fits(const Plan::State& state, const Problem& problem) {
  const kernels::Row& row = *state.row;
  if ((row.backward != nullptr) != (problem.pass == Pass::backward) || row.dtype != problem.query.dtype)
    refuse_plan(std::string("one for ") + row.name);
  if (row.algorithm != kernels::Algorithm::decode) return;
  for (const Sequence& s : problem.sequences)
    if (!plan::is_short(problem, s, state.decode_blocking.rows))
      refuse_plan("one for at most " + std::to_string(state.decode_blocking.rows) +
                  " query rows per kv head");
}

void compute(const Plan::State& state, const Problem& problem) {
  validate_memory(problem);
  try {
    plan::with_contiguous_channels(problem, [&](const Problem& p) { execute(state, p); });
  } catch (const std::bad_alloc&) {
    throw Error(ErrorKind::memory, "workspace", "more than there is", "what the system can allocate");
  }
}

}  // namespace

void run(const Plan& plan, const Problem& problem) {
  validate(problem);
  check_fits(plan.state(), problem);
  compute(plan.state(), problem);
}

void run(const Problem& problem) {
  compute(plan::choose_state(problem), problem);
}

}  // namespace fusion_attention
