#include "base/parallel.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <fstream>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fusion_attention {
namespace {

// Turns of the spin loop before a waiting worker sleeps: about 20 µs, the gap between two calls of a busy
// caller.
constexpr int kSpins = 4000;

void relax() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

// Waits until `word` is no longer `old`: spins, then sleeps in the kernel.
std::uint32_t await_change(const std::atomic<std::uint32_t>& word, std::uint32_t old) {
  for (int i = 0; i < kSpins; ++i) {
    const std::uint32_t now = word.load(std::memory_order_acquire);
    if (now != old) return now;
    relax();
  }
  word.wait(old, std::memory_order_acquire);
  return word.load(std::memory_order_acquire);
}

thread_local bool inside_task = false;

class Pool {
 public:
  ~Pool() {
    stop_ = true;
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  // False when the pool is in use: the caller then works alone.
  bool run(std::int64_t tasks, int threads, TaskBody body, void* context) {
    const std::unique_lock<std::mutex> owner(mutex_, std::try_to_lock);
    if (!owner) return false;
    const int helpers = threads - 1;
    while (static_cast<int>(workers_.size()) < helpers) {
      const int index = static_cast<int>(workers_.size()) + 1;
      workers_.emplace_back([this, index, seen = generation_.load()] { serve(index, seen); });
    }
    tasks_ = tasks, body_ = body, context_ = context, helpers_ = helpers;
    next_.store(0, std::memory_order_relaxed);
    failure_ = nullptr;
    failed_.store(false, std::memory_order_relaxed);
    // Every worker answers every generation, so that none can be late for one and read the next one's job.
    pending_.store(static_cast<std::uint32_t>(workers_.size()), std::memory_order_relaxed);
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
    work(0);
    for (std::uint32_t left = pending_.load(std::memory_order_acquire); left != 0;)
      left = await_change(pending_, left);
    if (failure_) std::rethrow_exception(failure_);
    return true;
  }

 private:
  void serve(int index, std::uint32_t seen) {
    while (true) {
      seen = await_change(generation_, seen);
      if (stop_) return;
      if (index <= helpers_) work(index);
      if (pending_.fetch_sub(1, std::memory_order_acq_rel) == 1) pending_.notify_all();
    }
  }

  void work(int worker) {
    inside_task = true;
    try {
      for (std::int64_t task; (task = next_.fetch_add(1, std::memory_order_relaxed)) < tasks_;)
        if (!failed_.load(std::memory_order_relaxed)) body_(context_, task, worker);
    } catch (...) {
      if (!failed_.exchange(true)) failure_ = std::current_exception();
    }
    inside_task = false;
  }

  std::mutex mutex_;
  std::vector<std::thread> workers_;
  std::atomic<std::uint32_t> generation_{0}, pending_{0};
  std::atomic<std::int64_t> next_{0};
  std::atomic<bool> failed_{false}, stop_{false};
  std::exception_ptr failure_;
  std::int64_t tasks_ = 0;
  TaskBody body_ = nullptr;
  void* context_ = nullptr;
  int helpers_ = 0;
};

// A child of fork() has none of the threads and may have inherited a locked mutex: it gets a pool of its own,
// and the parent's object is left behind unused.
struct Holder {
  Pool* pool = new Pool;
  Holder() {
    pthread_atfork(nullptr, nullptr, [] {
      holder().pool = new Pool;
      inside_task = false;
    });
  }
  ~Holder() { delete pool; }
  static Holder& holder() {
    static Holder the_one;
    return the_one;
  }
};

}  // namespace

void parallel_for(std::int64_t tasks, int threads, TaskBody body, void* context) {
  threads = static_cast<int>(std::min<std::int64_t>(threads, tasks));
  if (threads > 1 && !inside_task && Holder::holder().pool->run(tasks, threads, body, context)) return;
  const bool outer = inside_task;
  inside_task = true;
  try {
    for (std::int64_t task = 0; task < tasks; ++task) body(context, task, 0);
  } catch (...) {
    inside_task = outer;
    throw;
  }
  inside_task = outer;
}

int available_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  int cores = sched_getaffinity(0, sizeof set, &set) == 0
                  ? CPU_COUNT(&set)
                  : static_cast<int>(std::thread::hardware_concurrency());
  std::ifstream file("/sys/fs/cgroup/cpu.max");
  std::string quota;
  double period = 0;
  if (file >> quota >> period && quota != "max" && period > 0)
    cores = std::min(cores, static_cast<int>(std::stod(quota) / period + 0.999));
  return std::max(cores, 1);
}

}  // namespace fusion_attention
