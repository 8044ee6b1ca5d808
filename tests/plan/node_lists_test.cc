// The division of tasks among memory nodes, by simulation: the machine that runs the tests has one.
#include "plan/node_lists.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <queue>
#include <set>
#include <vector>

#include "base/task_lists.h"
#include "plan/tiles.h"
#include "support/case.h"
#include "support/outputs.h"

namespace fusion_attention::plan {
namespace {

constexpr kernels::Blocking kForward{512, 512, 256, 16}, kDecode{16, 1024, 256, 16},
    kBackward{256, 128, 128, 16};
constexpr int kCores = 64;

struct Divided {
  Schedule schedule;
  NodeLists lists;
};

Divided divided(const Problem& p, int nodes) {
  Divided d;
  if (p.pass == Pass::forward) {
    schedule_forward(p, kForward, kDecode, kCores, d.schedule);
  } else {
    schedule_backward(p, kBackward, kCores, d.schedule);
  }
  divide_among_nodes(d.schedule, static_cast<std::int64_t>(p.sequences.size()), p.key.heads(), nodes,
                     d.lists);
  return d;
}

double work_of(const Problem& p, const Task& t) {
  const Sequence& s = p.sequences[static_cast<std::size_t>(t.sequence)];
  const bool of_keys = p.pass == Pass::forward;  // the backward's keys are those that its rows see
  const double share =
      of_keys ? static_cast<double>(t.key_end - t.key_begin) / static_cast<double>(s.keys) : 1;
  return static_cast<double>(visible_tiles(s, t.row_begin, t.row_end)) * share;
}

// 64 cores, as many on each node, that take tasks as the pool's workers do; a task lasts as long as it has
// tiles.
struct Simulated {
  double balance = 0;  // the mean of the cores against the last to end
  double foreign = 0;  // share of the work done on another node than the task's
  std::vector<int> taken;
};

Simulated simulate(const Problem& p, const Divided& d, int nodes) {
  TaskLists lists(d.lists.ends.data(), nodes);
  std::vector<TaskLists::Worker> workers;
  std::priority_queue<std::pair<double, int>, std::vector<std::pair<double, int>>, std::greater<>> free;
  for (int core = 0; core < kCores; ++core) {
    workers.emplace_back(lists, core * nodes / kCores);
    free.emplace(0, core);
  }
  Simulated s{.taken = std::vector<int>(d.schedule.tasks.size())};
  double all = 0, last = 0;
  while (!free.empty()) {
    const auto [time, core] = free.top();
    free.pop();
    const std::int64_t place = workers[static_cast<std::size_t>(core)].take();
    if (place < 0) continue;
    const auto task = static_cast<std::size_t>(d.lists.order[static_cast<std::size_t>(place)]);
    ++s.taken[task];
    const double work = work_of(p, d.schedule.tasks[task]);
    const auto node =
        std::upper_bound(d.lists.ends.begin(), d.lists.ends.end(), place) - d.lists.ends.begin();
    if (node != core * nodes / kCores) s.foreign += work;
    all += work, last = std::max(last, time + work);
    free.emplace(time + work, core);
  }
  s.balance = all / (last * kCores);
  s.foreign /= all;
  return s;
}

std::vector<Problem> problems(Pass pass) {
  std::vector<Problem> all;
  for (const Band& band : {Band{}, Band{.hi = 0}, Band{.lo = -1023, .hi = 0}}) {
    all.push_back(dense_problem(pass, Dtype::bfloat16, 1, 32, 8, 16384, 16384, 128, 128, 1, band));
    all.push_back(dense_problem(pass, Dtype::bfloat16, 1, 33, 33, 16384, 16384, 128, 128, 1, band));
    all.push_back(dense_problem(pass, Dtype::bfloat16, 5, 27, 27, 4096, 4096, 128, 128, 1, band));
    Problem packed = all.back();
    packed.sequences.clear();
    std::int64_t row = 0;
    for (const std::int64_t rows : {4000, 37, 2099, 1, 3191, 700, 9000, 7}) {
      packed.sequences.push_back({.row = row, .rows = rows, .key = row, .keys = rows, .band = band});
      row += rows;
    }
    for (TensorView* v : {&packed.query, &packed.key, &packed.value}) v->shape[0] = 1, v->shape[2] = row;
    all.push_back(packed);
  }
  return all;
}

// As together as with one list, of which schedule_test.cc asks more.
TEST(NodeLists, EveryTaskIsTakenOnceAndCoresEndTogether) {
  for (const Pass pass : {Pass::forward, Pass::backward})
    for (const Problem& p : problems(pass)) {
      const double one_list = simulate(p, divided(p, 1), 1).balance;
      for (const int nodes : {2, 4, 8}) {
        const Simulated s = simulate(p, divided(p, nodes), nodes);
        for (const int times : s.taken) ASSERT_EQ(times, 1) << text(p) << nodes;
        EXPECT_GE(s.balance, one_list - 0.01) << text(p) << nodes;
        EXPECT_LE(s.foreign, 0.03) << text(p) << nodes;
      }
    }
}

// The heads whose tasks lie in more than one list.
std::size_t heads_in_two(const Divided& d, int nodes) {
  std::set<std::pair<std::int64_t, std::int64_t>> seen, twice;
  std::int64_t begin = 0;
  for (int node = 0; node < nodes; ++node) {
    std::set<std::pair<std::int64_t, std::int64_t>> here;
    for (; begin < d.lists.ends[static_cast<std::size_t>(node)]; ++begin) {
      const Task& t =
          d.schedule.tasks[static_cast<std::size_t>(d.lists.order[static_cast<std::size_t>(begin)])];
      here.insert({t.sequence, t.kv_head});
    }
    for (const auto& head : here)
      if (!seen.insert(head).second) twice.insert(head);
  }
  return twice.size();
}

TEST(NodeLists, AHeadStaysOnOneNode) {
  for (const Pass pass : {Pass::forward, Pass::backward})
    for (const Problem& p : problems(pass))
      for (const int nodes : {2, 4})
        EXPECT_LT(heads_in_two(divided(p, nodes), nodes), static_cast<std::size_t>(nodes)) << text(p);
}

// One head is all there is: its tasks are shared out.
TEST(NodeLists, OneHeadIsForAllNodes) {
  const Problem p = dense_problem(Pass::forward, Dtype::bfloat16, 1, 1, 1, 16384, 16384, 64, 64, 1, {});
  for (const int nodes : {2, 4}) {
    const Divided d = divided(p, nodes);
    const Simulated s = simulate(p, d, nodes);
    EXPECT_GE(s.balance, 0.97);
    EXPECT_LE(s.foreign, 0.1);
  }
}

TEST(NodeLists, AListKeepsTheOrderOfTheSchedule) {
  for (const Problem& p : problems(Pass::backward)) {
    const Divided d = divided(p, 4);
    std::int64_t begin = 0;
    for (const std::int64_t end : d.lists.ends) {
      EXPECT_TRUE(std::is_sorted(d.lists.order.begin() + begin, d.lists.order.begin() + end)) << text(p);
      begin = end;
    }
  }
}

TEST(NodeLists, TasksThatSeeNothingAreTakenToo) {
  const Problem hidden =
      dense_problem(Pass::forward, Dtype::float32, 2, 3, 3, 512, 512, 16, 16, 1, {.lo = 1000, .hi = 2000});
  for (const int times : simulate(hidden, divided(hidden, 4), 4).taken) EXPECT_EQ(times, 1);
  const Problem nothing = dense_problem(Pass::forward, Dtype::float32, 0, 3, 3, 8, 8, 16, 16, 1, {});
  EXPECT_EQ(divided(nothing, 4).lists.ends, (std::vector<std::int64_t>{0, 0, 0, 0}));
}

// Through run(): this machine is made to look as if it had three nodes.
TEST(NodeLists, DoNotChangeBits) {
  setenv("FUSION_ATTENTION_NODES", "3", 1);
  for (const Pass pass : {Pass::forward, Pass::backward}) {
    testing::Case made(dense_problem(pass, Dtype::float32, 2, 6, 3, 1100, 1100, 16, 16, 0.25, {.hi = 0}), 1,
                       testing::Fill::normal, testing::Layout::contiguous);
    if (pass == Pass::backward) {
      Problem forward = made.problem;
      forward.pass = Pass::forward;
      run(forward);
    }
    std::optional<std::vector<std::byte>> wanted;
    for (const int threads : {1, 2, 7}) {
      set_thread_count(threads);
      made.poison_outputs();
      run(made.problem);
      const std::vector<std::byte> bits = testing::output_bits(made.problem);
      if (!wanted) wanted = bits;
      EXPECT_EQ(bits, *wanted) << threads << " threads: " << text(made.problem);
    }
  }
  set_thread_count(0);
}

}  // namespace
}  // namespace fusion_attention::plan
