// The number of threads: what set_thread_count says, else the environment, else the machine.
#include <algorithm>
#include <atomic>
#include <cstdlib>

#include "base/cores.h"
#include "base/environment.h"
#include "fusion_attention/run.h"

namespace fusion_attention {
namespace {

constexpr int kMostThreads = 4096;
std::atomic<int> chosen_threads{0};

}  // namespace

int thread_count() {
  if (const int set = chosen_threads.load(std::memory_order_relaxed)) return set;
  if (const char* text = environment("FUSION_ATTENTION_NUM_THREADS")) {
    char* end = nullptr;
    const long wanted = std::strtol(text, &end, 10);
    if (*end == '\0' && wanted >= 1 && wanted <= kMostThreads) return static_cast<int>(wanted);
    warn_ignored("FUSION_ATTENTION_NUM_THREADS", text, "1 … 4096");
  }
  static const int cores = available_cores();
  return cores;
}

void set_thread_count(int threads) {
  chosen_threads.store(std::clamp(threads, 0, kMostThreads), std::memory_order_relaxed);
}

}  // namespace fusion_attention
