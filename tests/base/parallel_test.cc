#include "base/parallel.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <vector>

#include "base/task_lists.h"
#include "support/sanitized.h"

namespace fusion_attention {
namespace {

// How often each task ran.
std::vector<int> counts(std::int64_t tasks, int threads) {
  std::vector<std::atomic<int>> ran(static_cast<std::size_t>(tasks));
  parallel_for(tasks, threads,
               [&](std::int64_t task, int) { ran[static_cast<std::size_t>(task)].fetch_add(1); });
  return {ran.begin(), ran.end()};
}

TEST(Parallel, RunsEveryTaskOnce) {
  for (const int threads : {1, 2, 3, 8})
    for (const std::int64_t tasks : {0, 1, 2, 7, 1000}) {
      for (const int n : counts(tasks, threads))
        ASSERT_EQ(n, 1) << tasks << " tasks, " << threads << " threads";
    }
}

// Lists without a thread at home are taken by the others, empty ones by nobody.
TEST(Parallel, RunsEveryTaskOfEveryListOnce) {
  for (const std::vector<std::int64_t>& ends :
       {std::vector<std::int64_t>{3, 3, 500}, {0, 0}, {0, 7}, {400, 400}, {1, 2, 3, 4, 5, 6, 7, 8}})
    for (const int threads : {1, 2, 5}) {
      std::vector<std::atomic<int>> ran(static_cast<std::size_t>(ends.back()));
      parallel_for(ends.data(), static_cast<int>(ends.size()), threads,
                   [&](std::int64_t task, int) { ran[static_cast<std::size_t>(task)].fetch_add(1); });
      for (const std::atomic<int>& n : ran) ASSERT_EQ(n, 1) << ends.size() << " lists, " << threads;
    }
}

TEST(TaskLists, AWorkerTakesItsOwnFirstThenThoseOfTheNext) {
  constexpr std::int64_t kEnds[] = {2, 5, 6};
  TaskLists lists(kEnds, 3);
  TaskLists::Worker one(lists, 1), two(lists, 2);
  std::vector<std::int64_t> took;
  for (int i = 0; i < 4; ++i) took.push_back(two.take());
  for (int i = 0; i < 4; ++i) took.push_back(one.take());
  EXPECT_EQ(took, (std::vector<std::int64_t>{5, 0, 1, 2, 3, 4, -1, -1}));
  EXPECT_EQ(two.take(), -1);
}

TEST(Parallel, AWorkerHasOneTaskAtATimeAndANumberBelowTheThreads) {
  for (const int threads : {2, 3, 8, 2}) {
    std::vector<std::atomic<int>> busy(static_cast<std::size_t>(threads));
    std::atomic<int> wrong{0};
    parallel_for(2000, threads, [&](std::int64_t, int worker) {
      if (worker < 0 || worker >= threads) {
        wrong.fetch_add(1);
        return;
      }
      auto& mine = busy[static_cast<std::size_t>(worker)];
      wrong.fetch_add(mine.fetch_add(1) != 0);
      mine.fetch_sub(1);
    });
    EXPECT_EQ(wrong.load(), 0) << threads << " threads";
  }
}

// Tasks that wait for each other: all threads must be there at once.
bool all_come(int threads) {
  std::atomic<int> arrived{0}, alone{0};
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  parallel_for(threads, threads, [&](std::int64_t, int) {
    arrived.fetch_add(1);
    while (arrived.load() < threads && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
    alone.fetch_add(arrived.load() < threads);
  });
  return alone.load() == 0;
}

TEST(Parallel, UsesAllThreadsAskedFor) {
  EXPECT_TRUE(all_come(8));
  EXPECT_TRUE(all_come(3));
}

TEST(Parallel, TasksStartInOrder) {
  std::vector<std::int64_t> order;
  parallel_for(100, 1, [&](std::int64_t task, int) { order.push_back(task); });
  std::vector<std::int64_t> wanted(100);
  std::iota(wanted.begin(), wanted.end(), 0);
  EXPECT_EQ(order, wanted);
}

TEST(Parallel, WhatTasksWroteIsThereAfterwards) {
  std::vector<std::int64_t> values(5000);
  for (int round = 1; round <= 200; ++round) {
    parallel_for(50, 3, [&](std::int64_t task, int) {
      for (std::int64_t i = task * 100; i < task * 100 + 100; ++i) values[static_cast<std::size_t>(i)] += i;
    });
    ASSERT_EQ(values[4999], 4999 * round);
  }
  for (std::int64_t i = 0; i < 5000; ++i) ASSERT_EQ(values[static_cast<std::size_t>(i)], 200 * i);
}

TEST(Parallel, ManyCallersAtOnce) {
  std::vector<std::thread> users;
  std::atomic<std::int64_t> sum{0};
  for (int user = 0; user < 8; ++user)
    users.emplace_back([&] {
      for (int round = 0; round < 100; ++round)
        parallel_for(20, 3, [&](std::int64_t task, int) { sum.fetch_add(task + 1); });
    });
  for (std::thread& user : users) user.join();
  EXPECT_EQ(sum.load(), 8 * 100 * 210);
}

TEST(Parallel, ANestedCallStaysOnItsThread) {
  std::atomic<int> inner{0}, strayed{0};
  parallel_for(16, 3, [&](std::int64_t, int) {
    const auto mine = std::this_thread::get_id();
    parallel_for(10, 3, [&](std::int64_t, int worker) {
      inner.fetch_add(1);
      strayed.fetch_add(worker != 0 || std::this_thread::get_id() != mine);
    });
  });
  EXPECT_EQ(inner.load(), 160);
  EXPECT_EQ(strayed.load(), 0);
}

TEST(Parallel, OneExceptionComesOutAndThePoolGoesOn) {
  for (const int threads : {1, 2, 8}) {
    std::atomic<int> ran{0};
    try {
      parallel_for(10000, threads, [&](std::int64_t task, int) {
        ran.fetch_add(1);
        if (task >= 3) std::this_thread::sleep_for(std::chrono::milliseconds(task == 3 ? 30 : 1));
        if (task == 3) throw std::runtime_error("task");
      });
      ADD_FAILURE() << "nothing was thrown on " << threads << " threads";
    } catch (const std::runtime_error& e) {
      EXPECT_STREQ(e.what(), "task");
    }
    EXPECT_GE(ran.load(), 4);
    EXPECT_LE(ran.load(), 5000);
    for (const int n : counts(100, threads)) ASSERT_EQ(n, 1);
  }
}

int exit_code_of(void (*child_does)()) {
  const pid_t child = fork();
  if (child == 0) {
    child_does();
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + status;
}

TEST(Parallel, AChildOfForkHasAPoolOfItsOwn) {
  counts(10, 3);  // the parent's threads exist
  const auto child = [] {
    alarm(60);
    for (const int n : counts(1000, 3))
      if (n != 1) _exit(1);
    if (!all_come(3)) _exit(2);
  };
  EXPECT_EQ(exit_code_of(child), 0);
  for (const int n : counts(1000, 3)) ASSERT_EQ(n, 1);
}

// The moment when locks are held and helpers run.
TEST(Parallel, ForkInTheMiddleOfACall) {
  std::atomic<int> worst{0};
  parallel_for(4, 3, [&](std::int64_t task, int) {
    if (task != 1) return;
    worst = exit_code_of([] {
      alarm(60);
      for (const int n : counts(1000, 3))
        if (n != 1) _exit(1);
    });
  });
  EXPECT_EQ(worst.load(), 0);
}

TEST(Parallel, ExitIsClean) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(
      {
        counts(100, 4);
        std::exit(0);
      },
      ::testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace fusion_attention
