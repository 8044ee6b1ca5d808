#include "base/parallel.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "base/task_lists.h"

namespace fusion_attention {
namespace {

// How long a waiting thread spins before it sleeps: the gap between two calls of a busy caller. Waking a
// sleeper costs about 50 µs; spinning longer takes the core from the caller's other threads.
constexpr auto kSpinTime = std::chrono::microseconds(20);

void relax() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

// Waits until `word` is no longer `old`: spins, then sleeps in the kernel.
std::uint32_t await_change(const std::atomic<std::uint32_t>& word, std::uint32_t old) {
  const auto end = std::chrono::steady_clock::now() + kSpinTime;
  do {
    for (int i = 0; i < 16; ++i, relax())
      if (const std::uint32_t now = word.load(std::memory_order_acquire); now != old) return now;
  } while (std::chrono::steady_clock::now() < end);
  while (true) {
    word.wait(old, std::memory_order_acquire);
    if (const std::uint32_t now = word.load(std::memory_order_acquire); now != old) return now;
  }
}

thread_local bool inside_task = false;

class InsideTask {
 public:
  InsideTask() : outer_(std::exchange(inside_task, true)) {}
  ~InsideTask() { inside_task = outer_; }

 private:
  bool outer_;
};

// One call of parallel_for, on the caller's stack.
struct Job {
  TaskLists lists;
  const TaskBody body;
  void* const context;
  std::exception_ptr failure;
  std::atomic<bool> failed{false};

  void work(int worker) noexcept {
    const InsideTask inside;
    TaskLists::Worker tasks(lists, lists.lists() > 1 ? current_node() : 0);
    try {
      for (std::int64_t task; (task = tasks.take()) >= 0;)
        if (!failed.load(std::memory_order_relaxed)) body(context, task, worker);
    } catch (...) {
      if (!failed.exchange(true)) failure = std::current_exception();
    }
  }
};

// A thread of the pool. The caller posts a job, the helper takes it by idle/posted/running, and one that has
// not woken by the time the work is done is told to stay asleep: nobody waits for a thread that has done
// nothing, and a helper that runs holds the caller's job alive.
struct Helper {
  enum State : std::uint32_t { idle, posted, running, stop };
  alignas(64) std::atomic<std::uint32_t> state{idle};
  std::thread thread;
};

class Pool {
 public:
  // False when the pool is in use or over: the caller then works alone.
  bool run(Job& job, int threads) {
    const std::unique_lock<std::mutex> owner(mutex_, std::try_to_lock);
    if (!owner || stopped_) return false;
    grow(threads - 1);
    const std::size_t helpers = std::min(helpers_.size(), static_cast<std::size_t>(threads - 1));
    job_ = &job;
    for (std::size_t i = 0; i < helpers; ++i) post(*helpers_[i], Helper::posted);
    job.work(0);
    for (std::size_t i = 0; i < helpers; ++i) {
      std::uint32_t seen = Helper::posted;
      if (helpers_[i]->state.compare_exchange_strong(seen, Helper::idle)) continue;  // never woke
      while (seen == Helper::running) seen = await_change(helpers_[i]->state, seen);
    }
    return true;
  }

  // At exit. The object outlives its threads, for a caller that is still about then.
  void stop() {
    const std::unique_lock<std::mutex> owner(mutex_, std::try_to_lock);
    if (!owner) return;
    stopped_ = true;
    for (const auto& helper : helpers_) {
      post(*helper, Helper::stop);
      helper->thread.join();
    }
    helpers_.clear();
  }

 private:
  // A full barrier between the store and the look for sleepers that notify begins with.
  static void post(Helper& helper, Helper::State state) {
    helper.state.exchange(state);
    helper.state.notify_one();
  }

  // As many helpers as asked for, or as the system grants. They leave signals to the caller's threads.
  void grow(int wanted) {
    if (static_cast<int>(helpers_.size()) >= wanted) return;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
      while (static_cast<int>(helpers_.size()) < wanted) {
        auto helper = std::make_unique<Helper>();
        helper->thread =
            std::thread([this, state = &helper->state, worker = static_cast<int>(helpers_.size()) + 1] {
              serve(*state, worker);
            });
        helpers_.push_back(std::move(helper));
      }
    } catch (const std::system_error&) {
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  void serve(std::atomic<std::uint32_t>& state, int worker) {
    while (true) {
      std::uint32_t seen = await_change(state, Helper::idle);
      if (seen == Helper::stop) return;
      if (!state.compare_exchange_strong(seen, Helper::running)) continue;
      job_->work(worker);
      state.exchange(Helper::idle);
      state.notify_one();
    }
  }

  std::mutex mutex_;
  std::vector<std::unique_ptr<Helper>> helpers_;
  Job* job_ = nullptr;
  bool stopped_ = false;
};

// Never freed, and plain pointers without guards: a child of fork() has none of the threads and may have
// inherited any lock as taken, so it forgets the object and makes its own.
constinit std::atomic<Pool*> the_pool{nullptr};
constinit std::atomic<bool> watching_forks{false};

Pool& pool() {
  if (Pool* present = the_pool.load(std::memory_order_acquire)) return *present;
  if (!watching_forks.exchange(true))
    pthread_atfork(nullptr, nullptr, [] {
      the_pool.store(nullptr);
      inside_task = false;
    });
  auto made = std::make_unique<Pool>();
  Pool* present = nullptr;
  return the_pool.compare_exchange_strong(present, made.get()) ? *made.release() : *present;
}

struct AtExit {
  ~AtExit() {
    if (Pool* present = the_pool.load()) present->stop();
  }
} at_exit;

}  // namespace

void parallel_for(const std::int64_t* ends, int lists, int threads, TaskBody body, void* context) {
  const std::int64_t tasks = ends[lists - 1];
  threads = static_cast<int>(std::min<std::int64_t>(threads, tasks));
  if (threads > 1 && !inside_task) {
    Job job{.lists = {ends, lists}, .body = body, .context = context, .failure = nullptr};
    const bool done = pool().run(job, threads);
    if (job.failure) std::rethrow_exception(job.failure);
    if (done) return;
  }
  const InsideTask inside;
  for (std::int64_t task = 0; task < tasks; ++task) body(context, task, 0);
}

}  // namespace fusion_attention
