// A decode whose keys grow by one with every step: what it allocates, counted where all memory comes from.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <deque>
#include <string>
#include <thread>
#include <vector>

#include "fusion_attention/fusion_attention.h"
#include "support/sanitized.h"

#if !FUSION_ATTENTION_SANITIZED && defined(__GLIBC__)

namespace {
std::atomic<long> allocations{0};
}

// In front of those of the C library, which operator new calls too.
extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void* __libc_memalign(std::size_t, std::size_t);

void* malloc(std::size_t bytes) {
  ++allocations;
  return __libc_malloc(bytes);
}
void* calloc(std::size_t count, std::size_t bytes) {
  ++allocations;
  return __libc_calloc(count, bytes);
}
void* realloc(void* data, std::size_t bytes) {
  ++allocations;
  return __libc_realloc(data, bytes);
}
void* aligned_alloc(std::size_t alignment, std::size_t bytes) {
  ++allocations;
  return __libc_memalign(alignment, bytes);
}
}

namespace fusion_attention::testing {
namespace {

// Two sequences that decode one row each, out of a cache of up to kMostKeys.
constexpr std::int64_t kMostKeys = 1100;

class Decode {
 public:
  explicit Decode(const std::string& stored)
      : problem_(
            parse("fwd bf16 b2 h4/2 q1 k" + std::to_string(kMostKeys) + " d32/32 scale=0.125" + stored)) {
    Problem& p = problem_;
    Cache& c = p.cache;
    for (TensorView* v : {&p.query, &p.key, &p.value, &p.output, &c.key_rope}) give(*v);
    if (c.key.scale.data) give(c.key.scale), give(c.value.scale);
    for (std::int64_t i = 0; i < c.pages.entries; ++i) table_.push_back(static_cast<std::int32_t>(i));
    if (c.pages) c.pages.table = table_.data();
  }

  // A slot of the batch that nobody uses at the moment.
  void leave_a_row_to_nobody() { problem_.sequences.pop_back(); }

  // Steps of 1 … kMostKeys keys in which anything was allocated, and how often in all.
  struct Count {
    long steps = 0, allocations = 0;
  };
  Count steps(bool planned) {
    const Plan plan = make_plan(problem_);
    Count count;
    for (std::int64_t keys = 1; keys <= kMostKeys; ++keys) {
      for (Sequence& s : problem_.sequences) s.keys = keys;
      const long before = allocations;
      planned ? run(plan, problem_) : run(problem_);
      count.allocations += allocations - before;
      count.steps += allocations != before;
    }
    return count;
  }

 private:
  void give(TensorView& v) {
    std::int64_t elements = 1;
    for (const std::int64_t size : v.shape) elements *= size;
    v.data = memory_.emplace_back(static_cast<std::size_t>(elements)).data();
  }

  Problem problem_;
  std::deque<std::vector<float>> memory_;
  std::vector<std::int32_t> table_;
};

class Allocations : public ::testing::TestWithParam<std::tuple<const char*, int>> {
 protected:
  void TearDown() override { set_thread_count(0); }
};

// Memory is one thread's, so a new thread begins with none: what it holds doubles, or grows by a quarter, now
// and then. A second decode of the same lengths finds all it needs, through a plan or not.
TEST_P(Allocations, OfADecodeAreThoseOfItsFirstStepAndOfGrowth) {
  const auto& [stored, threads] = GetParam();
  set_thread_count(threads);
  for (const bool all_rows : {true, false}) {
    Decode decode(stored);
    if (!all_rows) decode.leave_a_row_to_nobody();
    Decode::Count growing, again, planned;
    std::thread([&] {
      growing = decode.steps(false);
      again = decode.steps(false);
      planned = decode.steps(true);
    }).join();
    EXPECT_GT(growing.allocations, 0) << "the counter does not count";
    EXPECT_LE(growing.allocations, 50);
    EXPECT_LE(growing.steps, 12);
    EXPECT_EQ(again.allocations, 0);
    EXPECT_EQ(planned.allocations, 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Every, Allocations,
                         ::testing::Combine(::testing::Values("", " pages(16)", " pages(128) rope(16)",
                                                              " pages(16) key(int8,nd) value(int8,nd)"),
                                            ::testing::Values(1, 2)));

}  // namespace
}  // namespace fusion_attention::testing

#else

TEST(Allocations, AreCounted) {
  GTEST_SKIP() << "a sanitizer has the memory of this program, or its C library is another";
}

#endif
