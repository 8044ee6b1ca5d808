// The division of work: which task computes which rows and keys. Knows sizes and masks, touches no tensor, so
// it is tested without arithmetic.
#pragma once

#include <cstdint>
#include <vector>

#include "fusion_attention/problem.h"
#include "kernels/kernels.h"

namespace fusion_attention::plan {

// One task of the first phase. Row ranges may depend on the number of threads: rows are independent. Splits,
// which change the order of a sum, follow from the problem alone.
struct Task {
  std::int64_t sequence = 0, kv_head = 0;
  std::int64_t row_begin = 0, row_end = 0;
  std::int64_t key_begin = 0, key_end = 0;
  std::int64_t partial =
      -1;  // floats from the start of the partials; −1: the task finishes its rows (keys) itself
};

// The splits of one row range (forward) or key range (backward), merged in index order after all tasks.
struct Merge {
  std::int64_t sequence = 0, kv_head = 0;
  std::int64_t begin = 0, end = 0;
  std::int64_t partial = 0;  // of split 0; the others follow
  int splits = 0;
};

struct Schedule {
  std::vector<Task> tasks;  // heavy first
  std::vector<Merge> merges;
  std::int64_t partial_floats = 0;

  void clear() {
    tasks.clear();
    merges.clear();
    partial_floats = 0;
  }
};

// (row, key) pairs that rows [begin, end) of a sequence see by its band, per head; exact at the ends of the
// range and linear between, which is what a band is.
std::int64_t visible_pairs(const Sequence& sequence, std::int64_t begin, std::int64_t end);

// Fills a schedule (its memory is reused). O(sequences + tasks).
void schedule_forward(const Problem& problem, const kernels::Blocking& blocking, int threads, Schedule& out);
void schedule_backward(const Problem& problem, const kernels::Blocking& blocking, Schedule& out);

}  // namespace fusion_attention::plan
