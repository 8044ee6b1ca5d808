// The library's own threads: no OpenMP, which deadlocks after fork and clashes with other copies of itself.
#pragma once

#include <cstdint>
#include <type_traits>
#include <utility>

namespace fusion_attention {

// Calls body(context, task, worker) for task = 0 … tasks-1, in order of start, on up to `threads` workers of
// which the caller is number 0. Returns when all are done; the first exception is rethrown, and tasks that
// had not started by then are left out. Called from inside a body, or while another thread uses the pool, it
// does all the work on the calling thread: never more runnable threads than asked for. Allocates only when
// the pool grows.
//
// The tasks come in `lists` lists, one per memory node (base/nodes.h), which end at ends[0] … ends[lists-1]:
// a worker takes those of the node it is on when it starts, then those of others (base/task_lists.h).
using TaskBody = void (*)(void* context, std::int64_t task, int worker);
void parallel_for(const std::int64_t* ends, int lists, int threads, TaskBody body, void* context);

template <class F>
void parallel_for(const std::int64_t* ends, int lists, int threads, F&& body) {
  parallel_for(
      ends, lists, threads,
      [](void* context, std::int64_t task, int worker) {
        (*static_cast<std::remove_reference_t<F>*>(context))(task, worker);
      },
      &body);
}

// Tasks in one list.
template <class F>
void parallel_for(std::int64_t tasks, int threads, F&& body) {
  parallel_for(&tasks, 1, threads, std::forward<F>(body));
}

}  // namespace fusion_attention
