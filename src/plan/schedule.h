// The division of work: which task computes which rows and keys. Knows sizes and masks, touches no tensor, so
// it is tested without arithmetic.
//
// Row ranges and the order of tasks may depend on the number of threads: rows are independent. What changes
// the order of a sum, the splits over keys (forward) and over rows (backward), follows from the one sequence
// alone: the bits are the same on any number of threads, and for a slice of a batch computed by itself.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "fusion_attention/problem.h"
#include "kernels/kernels.h"

namespace fusion_attention::plan {

// Whether a sequence is for a decode kernel that takes so many query rows, those of all heads that share a kv
// head together. It knows no bias, no dropout and no int8 operands.
inline bool is_short(const Problem& problem, const Sequence& sequence, std::int64_t rows) {
  return problem.pass == Pass::forward && problem.query.dtype != Dtype::int8 && !problem.bias &&
         !problem.dropout &&
         sequence.rows * problem.group() <= std::min<std::int64_t>(rows, kernels::kDecodeRows);
}

struct Task {
  std::int64_t sequence = 0, kv_head = 0;
  std::int64_t row_begin = 0, row_end = 0;
  std::int64_t key_begin = 0, key_end = 0;
  // Floats from the start of the partials; −1: the task finishes its rows (forward) or keys (backward).
  std::int64_t partial = -1;
  // Backward, 2 or more: a chain, the splits of its row range one after the other, which are
  // Schedule::splits[split + 0 … chain-1]. The same sums as if they were tasks, in the memory of one.
  std::int64_t split = 0;
  std::int64_t chain = 1;
  std::int64_t weight = 0;  // visible tiles, for the order
};

// The splits of one row range (forward) or key range (backward), merged in index order after all tasks.
struct Merge {
  std::int64_t sequence = 0, kv_head = 0;
  std::int64_t begin = 0, end = 0;
  std::int64_t partial = 0;  // of split 0; the others follow
  std::int64_t split = 0;    // backward: the first of them in Schedule::splits
  int splits = 0;
};

struct Schedule {
  std::vector<Task> tasks;  // heavy first
  std::vector<Merge> merges;
  std::vector<kernels::BackwardSplit> splits;  // of a sequence one behind the other, for all its heads
  // Ends of runs of tasks that one thread carries out in order, because they add to the same numbers of a
  // bias gradient. Empty: every task by itself.
  std::vector<std::int64_t> owners;
  std::int64_t partial_floats = 0;  // of all tasks
  std::int64_t chain_floats = 0;    // of one worker, for any chain
  std::int64_t task_keys = 0;       // backward: the most keys that a task or a split adds gradients of

  void clear();

  std::vector<Task> sorting;  // memory of the sort
};

// Fill a schedule, whose memory is reused. O(sequences + tasks + rows / 32).
void schedule_forward(const Problem& problem, const kernels::Blocking& blocking,
                      const kernels::Blocking& decode_blocking, int threads, Schedule& out);
void schedule_backward(const Problem& problem, const kernels::Blocking& blocking, int threads, Schedule& out);

// At most `threads`: no more than have a few tiles each, because waking one costs as much.
int useful_threads(const Problem& problem, int threads);

}  // namespace fusion_attention::plan
