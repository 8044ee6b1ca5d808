// run() at its edges: nothing to compute, rows and keys outside every sequence, no memory, other threads.
#include "fusion_attention/run.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cfloat>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <thread>

#include "fusion_attention/error.h"
#include "support/outputs.h"
#include "support/random.h"
#include "support/random_problem.h"
#include "support/sanitized.h"

namespace fusion_attention::testing {
namespace {

constexpr const char* kWhySkipped =
    "sanitizers reserve the address space and end a program that asks too much";

class Run : public ::testing::Test {
 protected:
  void TearDown() override {
    set_thread_count(0);
    unsetenv("FUSION_ATTENTION_NUM_THREADS");
  }
};

double largest(const TensorView& v) {
  double most = 0;
  for (std::int64_t b = 0; b < v.batches(); ++b)
    for (std::int64_t h = 0; h < v.heads(); ++h)
      for (std::int64_t r = 0; r < v.rows(); ++r)
        for (std::int64_t c = 0; c < v.channels(); ++c) {
          const double x = read(v, b, h, r, c);
          most = std::isnan(x) ? NAN : std::max(most, std::fabs(x));
        }
  return most;
}

void expect_nothing(const Problem& p) {
  if (p.pass == Pass::backward) {
    for (const TensorView* v : {&p.query_gradient, &p.key_gradient, &p.value_gradient})
      EXPECT_EQ(largest(*v), 0);
    return;
  }
  EXPECT_EQ(largest(p.output), 0);
  const std::int64_t entries = p.query.batches() * p.query.heads() * p.query.rows() * p.statistics.copies;
  for (std::int64_t e = 0; e < entries; ++e) {
    ASSERT_EQ(p.statistics.max[e], -FLT_MAX) << e;
    ASSERT_EQ(p.statistics.sum[e], 1.0f) << e;
  }
}

TEST_F(Run, NothingToComputeIsZero) {
  struct Size {
    std::int64_t batches, heads, kv_heads, rows, keys;
  };
  const Size sizes[] = {{0, 2, 2, 5, 5},  {2, 0, 0, 5, 5}, {2, 4, 2, 0, 5}, {2, 4, 2, 5, 0},
                        {2, 4, 2, 40, 0}, {2, 4, 2, 0, 0}, {0, 0, 0, 0, 0}};
  for (const Pass pass : {Pass::forward, Pass::backward})
    for (const Dtype dtype : {Dtype::float32, Dtype::bfloat16})
      for (const Size& s : sizes)
        for (const int threads : {1, 3}) {
          set_thread_count(threads);
          Case made(dense_problem(pass, dtype, s.batches, s.heads, s.kv_heads, s.rows, s.keys, 16, 24, 1, {}),
                    1, Fill::normal, Layout::contiguous);
          const std::int64_t entries = s.batches * s.heads * s.rows * made.problem.statistics.copies;
          std::fill_n(made.problem.statistics.max, entries, -FLT_MAX);
          std::fill_n(made.problem.statistics.sum, entries, 1.0f);
          made.poison_outputs();
          run(made.problem);
          SCOPED_TRACE(text(made.problem));
          expect_nothing(made.problem);
        }
}

TEST_F(Run, NoSequenceIsNothing) {
  for (const Pass pass : {Pass::forward, Pass::backward}) {
    Case made(dense_problem(pass, Dtype::float32, 2, 2, 1, 20, 30, 16, 16, 1, {}), 1, Fill::normal,
              Layout::contiguous);
    made.problem.sequences.clear();
    made.poison_outputs();
    run(made.problem);
    expect_nothing(made.problem);
  }
}

// Sequences that leave gaps before, between and after them, in memory of other strides.
TEST_F(Run, RowsAndKeysOutsideEverySequenceAreFilled) {
  for (const Pass pass : {Pass::forward, Pass::backward})
    for (const Layout layout : {Layout::contiguous, Layout::spread}) {
      Problem p = dense_problem(pass, Dtype::float32, 2, 2, 1, 50, 60, 16, 16, 0.3, {});
      p.sequences = {
          {.batch = 1, .row = 30, .rows = 10, .key = 5, .keys = 20, .row0 = 0, .key0 = 0, .band = {}},
          {.batch = 1, .row = 3, .rows = 20, .key = 40, .keys = 15, .row0 = 0, .key0 = 0, .band = {}}};
      Case made(p, 3, Fill::normal, layout);
      if (pass == Pass::backward) made.forward_first(1.0);
      made.poison_outputs();
      run(made.problem);
      for (const TensorView* v : {&made.problem.query_gradient, &made.problem.output}) {
        if (v->data == nullptr || (v == &made.problem.output) != (pass == Pass::forward)) continue;
        for (std::int64_t row = 0; row < 50; ++row) {
          const bool inside = (row >= 30 && row < 40) || (row >= 3 && row < 23);
          EXPECT_EQ(read(*v, 0, 0, row, 5), 0) << row;
          EXPECT_EQ(read(*v, 1, 1, row, 5) == 0, !inside) << row;
        }
      }
      for (std::int64_t key = 0; pass == Pass::backward && key < 60; ++key) {
        const bool inside = (key >= 5 && key < 25) || (key >= 40 && key < 55);
        EXPECT_EQ(read(made.problem.value_gradient, 1, 0, key, 5) == 0, !inside) << key;
        EXPECT_EQ(read(made.problem.key_gradient, 0, 0, key, 5), 0) << key;
      }
      if (pass == Pass::backward) continue;
      // 30 rows × 2 heads are computed; the statistics of the other 140 follow theirs.
      const Statistics& s = made.problem.statistics;
      for (std::int64_t e = 0; e < 2 * 2 * 50 * s.copies; ++e) {
        EXPECT_EQ(s.max[e] == -FLT_MAX, e >= 2 * 30 * s.copies) << e;
        EXPECT_TRUE(e < 2 * 30 * s.copies || s.sum[e] == 1.0f) << e;
      }
    }
}

TEST_F(Run, ChannelsThatAreApartGiveTheSameBits) {
  for (const Pass pass : {Pass::forward, Pass::backward}) {
    const Problem p = dense_problem(pass, Dtype::bfloat16, 2, 4, 2, 45, 70, 40, 24, 0.2, {.hi = 25});
    Case dense(p, 9, Fill::normal, Layout::contiguous), apart(p, 9, Fill::normal, Layout::spread);
    for (Case* made : {&dense, &apart}) {
      if (pass == Pass::backward) made->forward_first(1.0);
      made->poison_outputs();
      run(made->problem);
    }
    EXPECT_EQ(output_bits(dense.problem), output_bits(apart.problem));
  }
}

// A broadcast view of few bytes whose copy would not fit any memory.
TEST_F(Run, ACopyThatDoesNotFitIsAMemoryErrorAndWritesNothing) {
  if (FUSION_ATTENTION_SANITIZED) GTEST_SKIP() << kWhySkipped;
  Problem p = dense_problem(Pass::forward, Dtype::float32, 1, 1, 1, 8, std::int64_t{1} << 40, 64, 64, 1, {});
  static float row[128];
  std::vector<float> query(8 * 64, 1.0f), output(8 * 64, 7.0f);
  for (auto view : {&Problem::key, &Problem::value}) (p.*view).data = row, (p.*view).stride = {0, 0, 0, 2};
  p.query.data = query.data(), p.output.data = output.data();
  try {
    run(p);
    ADD_FAILURE();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::memory) << e.what();
  }
  for (const float x : output) ASSERT_EQ(x, 7.0f);
}

// A workspace of dK and dV in fp32 that an address space limit does not allow.
TEST_F(Run, AWorkspaceThatDoesNotFitIsAMemoryErrorAndWritesNothing) {
  if (FUSION_ATTENTION_SANITIZED) GTEST_SKIP() << kWhySkipped;
  const std::int64_t keys = 1 << 20;  // 2 × 256 MiB of scratch
  Problem p = dense_problem(Pass::backward, Dtype::float32, 1, 1, 1, 8, keys, 64, 64, 1, {});
  std::vector<float> rows(8 * 64, 1.0f), statistics(8 * 8, 1.0f), dq(8 * 64, 7.0f);
  std::vector<float> dk(static_cast<std::size_t>(keys) * 64, 7.0f), dv(dk.size(), 7.0f), line(64, 0.5f);
  for (auto view : {&Problem::query, &Problem::output, &Problem::output_gradient})
    (p.*view).data = rows.data();
  for (auto view : {&Problem::key, &Problem::value})
    (p.*view).data = line.data(), (p.*view).stride = {0, 0, 0, 1};
  p.query_gradient.data = dq.data(), p.key_gradient.data = dk.data(), p.value_gradient.data = dv.data();
  p.statistics.max = p.statistics.sum = statistics.data();
  const pid_t child = fork();
  if (child == 0) {
    std::size_t pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    const rlim_t most = pages * static_cast<std::size_t>(sysconf(_SC_PAGESIZE)) + (std::size_t{256} << 20);
    const rlimit little{most, most};
    setrlimit(RLIMIT_AS, &little);
    set_thread_count(1);
    int result = 1;
    try {
      run(p);
    } catch (const Error& e) {
      result = e.kind() == ErrorKind::memory && dq[0] == 7.0f && dk[0] == 7.0f && dv.back() == 7.0f ? 0 : 2;
    }
    _exit(result);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

TEST_F(Run, APlanOfAnotherProblemIsRefused) {
  Case decode(dense_problem(Pass::forward, Dtype::float32, 1, 2, 2, 1, 50, 16, 16, 1, {}), 1, Fill::normal,
              Layout::contiguous);
  Case forward(dense_problem(Pass::forward, Dtype::float32, 1, 2, 2, 60, 50, 16, 16, 1, {}), 1, Fill::normal,
               Layout::contiguous);
  Case half(dense_problem(Pass::forward, Dtype::float16, 1, 2, 2, 60, 50, 16, 16, 1, {}), 1, Fill::normal,
            Layout::contiguous);
  const Plan plan = make_plan(decode.problem);
  run(plan, decode.problem);
  EXPECT_THROW(run(plan, forward.problem), Error);
  EXPECT_THROW(run(make_plan(forward.problem), half.problem), Error);
}

TEST_F(Run, ManyThreadsMayRunOnePlanAtOnce) {
  set_thread_count(3);
  const Problem p = dense_problem(Pass::forward, Dtype::float32, 1, 4, 2, 200, 300, 32, 32, 0.2, {.hi = 100});
  Case first(p, 4, Fill::normal, Layout::contiguous);
  const Plan plan = make_plan(first.problem);
  run(plan, first.problem);
  const auto wanted = output_bits(first.problem);
  std::vector<std::thread> users;
  std::atomic<int> wrong{0};
  for (int user = 0; user < 8; ++user)
    users.emplace_back([&] {
      Case mine(p, 4, Fill::normal, Layout::contiguous);
      for (int round = 0; round < 10; ++round) {
        mine.poison_outputs();
        run(plan, mine.problem);
        wrong.fetch_add(output_bits(mine.problem) != wanted);
      }
    });
  for (std::thread& user : users) user.join();
  EXPECT_EQ(wrong.load(), 0);
}

TEST_F(Run, AChildOfForkRuns) {
  set_thread_count(3);
  Case made(dense_problem(Pass::forward, Dtype::float32, 1, 4, 2, 200, 300, 32, 32, 0.2, {}), 4, Fill::normal,
            Layout::contiguous);
  run(made.problem);
  const auto wanted = output_bits(made.problem);
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);
    made.poison_outputs();
    run(made.problem);
    _exit(output_bits(made.problem) == wanted ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

TEST_F(Run, TheNumberOfThreadsIsWhatWasSetOrTheEnvironmentSays) {
  const int machine = thread_count();
  EXPECT_GE(machine, 1);
  setenv("FUSION_ATTENTION_NUM_THREADS", "5", 1);
  EXPECT_EQ(thread_count(), 5);
  set_thread_count(2);
  EXPECT_EQ(thread_count(), 2);
  set_thread_count(0);
  EXPECT_EQ(thread_count(), 5);
  ::testing::internal::CaptureStderr();
  for (const char* malformed : {"0", "-3", "4x", "many", "99999999999999999999"}) {
    setenv("FUSION_ATTENTION_NUM_THREADS", malformed, 1);
    EXPECT_EQ(thread_count(), machine) << malformed;
  }
  EXPECT_EQ(::testing::internal::GetCapturedStderr(),
            "fusion_attention: FUSION_ATTENTION_NUM_THREADS=0 is ignored: allowed is 1 … 4096\n");
}

}  // namespace
}  // namespace fusion_attention::testing
