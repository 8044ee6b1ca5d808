// Tasks in one list per memory node, and which one a worker takes next.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/nodes.h"

namespace fusion_attention {

// The tasks of list i are ends[i-1] … ends[i]-1, those of list 0 begin at 0.
class TaskLists {
 public:
  TaskLists(const std::int64_t* ends, int lists) : ends_(ends), lists_(lists) {
    for (int i = 1; i < lists; ++i) next_[i].task.store(ends[i - 1], std::memory_order_relaxed);
  }

  int lists() const { return lists_; }

  // Takes every task of the list at home in order, then what is left of the next lists, round about: whoever
  // is free helps where there is work, and begins with the heaviest that is left.
  class Worker {
   public:
    Worker(TaskLists& lists, int home) : lists_(lists), list_(home < lists.lists_ ? home : 0) {}

    // −1: nothing is left anywhere.
    std::int64_t take() {
      for (; dry_ < lists_.lists_; ++dry_, list_ = list_ + 1 < lists_.lists_ ? list_ + 1 : 0) {
        const std::int64_t task = lists_.next_[list_].task.fetch_add(1, std::memory_order_relaxed);
        if (task < lists_.ends_[list_]) return task;
      }
      return -1;
    }

   private:
    TaskLists& lists_;
    int list_;
    int dry_ = 0;  // lists in which this worker has found nothing more
  };

 private:
  const std::int64_t* ends_;
  const int lists_;
  struct alignas(64) Next {  // contended: alone in its line
    std::atomic<std::int64_t> task{0};
  };
  Next next_[kMostNodes];
};

}  // namespace fusion_attention
