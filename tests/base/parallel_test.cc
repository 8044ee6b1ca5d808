#include "base/parallel.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

namespace fusion_attention {
namespace {

#if defined(__SANITIZE_THREAD__)
constexpr bool kThreadSanitizer = true;
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
constexpr bool kThreadSanitizer = true;
#else
constexpr bool kThreadSanitizer = false;
#endif
#else
constexpr bool kThreadSanitizer = false;
#endif

std::int64_t sum_of_squares(std::int64_t tasks, int threads) {
  std::vector<std::int64_t> each(static_cast<std::size_t>(tasks));
  parallel_for(tasks, threads,
               [&](std::int64_t task, int) { each[static_cast<std::size_t>(task)] = task * task; });
  std::int64_t sum = 0;
  for (const std::int64_t x : each) sum += x;
  return sum;
}

TEST(Parallel, RunsEveryTaskOnce) {
  for (const int threads : {1, 2, 3, 8})
    for (const std::int64_t tasks : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> hits(static_cast<std::size_t>(tasks));
      parallel_for(tasks, threads, [&](std::int64_t task, int worker) {
        EXPECT_LT(worker, threads);
        ++hits[static_cast<std::size_t>(task)];
      });
      for (const auto& h : hits) EXPECT_EQ(h, 1);
    }
}

TEST(Parallel, NestedCallsAreSerial) {
  std::atomic<int> inner{0};
  parallel_for(4, 4, [&](std::int64_t, int) {
    const auto self = std::this_thread::get_id();
    parallel_for(8, 4, [&](std::int64_t, int) {
      EXPECT_EQ(std::this_thread::get_id(), self);
      ++inner;
    });
  });
  EXPECT_EQ(inner, 32);
}

TEST(Parallel, PassesOneExceptionOnAndSurvives) {
  EXPECT_THROW(parallel_for(100, 4,
                            [](std::int64_t task, int) {
                              if (task % 3 == 0) throw std::runtime_error("task");
                            }),
               std::runtime_error);
  EXPECT_EQ(sum_of_squares(100, 4), 328350);
}

TEST(Parallel, ServesManyCallersAtOnce) {
  std::vector<std::thread> callers;
  std::atomic<int> wrong{0};
  for (int i = 0; i < 8; ++i)
    callers.emplace_back([&] {
      for (int repeat = 0; repeat < 200; ++repeat) wrong += sum_of_squares(50, 3) != 40425;
    });
  for (auto& caller : callers) caller.join();
  EXPECT_EQ(wrong, 0);
}

TEST(Parallel, WorksInTheChildOfAFork) {
  if (kThreadSanitizer) GTEST_SKIP() << "ThreadSanitizer does not support threads after fork";
  EXPECT_EQ(sum_of_squares(100, 4), 328350);
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);  // a deadlock ends the child
    _exit(sum_of_squares(100, 4) == 328350 ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

}  // namespace
}  // namespace fusion_attention
