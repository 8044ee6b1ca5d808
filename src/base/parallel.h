// The library's own threads: no OpenMP, which deadlocks after fork and clashes with other copies of itself.
#pragma once

#include <cstdint>
#include <type_traits>

namespace fusion_attention {

// Calls body(context, task, worker) for task = 0 … tasks-1, in order of start, on up to `threads` workers of
// which the caller is number 0. Returns when all are done; the first exception is rethrown, and tasks that
// had not started by then are left out. Called from inside a body, or while another thread uses the pool, it
// does all the work on the calling thread: never more runnable threads than asked for. Allocates only when
// the pool grows.
using TaskBody = void (*)(void* context, std::int64_t task, int worker);
void parallel_for(std::int64_t tasks, int threads, TaskBody body, void* context);

template <class F>
void parallel_for(std::int64_t tasks, int threads, F&& body) {
  parallel_for(
      tasks, threads,
      [](void* context, std::int64_t task, int worker) {
        (*static_cast<std::remove_reference_t<F>*>(context))(task, worker);
      },
      &body);
}

}  // namespace fusion_attention
