// Calls on caches with one fault each, several thousand by draw: every one is refused in a sentence that
// names the argument, and no byte changes. The call without its faults is then computed on every arch that
// runs here, to the bits of the plain tensors. Pools, tables, scales and results lie before or behind a guard
// page.
//
// FUSION_ATTENTION_HOSTILE_CALLS sets how many decodes, and how many forwards, get all faults that fit them.
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <cstdlib>

#include "fusion_attention/error.h"
#include "support/cached.h"
#include "support/every_arch.h"
#include "support/outputs.h"
#include "support/random.h"
#include "support/stored_faults.h"

namespace fusion_attention::testing {
namespace {

int calls() {
  const char* text = std::getenv("FUSION_ATTENTION_HOSTILE_CALLS");
  return text ? std::atoi(text) : 80;
}

// What the refusal of `compute` names; empty if it was accepted or said nothing.
template <class Compute>
std::string refused(Compute compute) {
  try {
    compute();
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::value && !error.given().empty() && !error.allowed().empty())
      return error.argument();
    return std::string("not a sentence: ") + error.what();
  }
  return "";
}

class HostileCaches : public ::testing::TestWithParam<const char*> {
 protected:
  // Before anything asks: an instruction set that CPUID hides but that executes is tested too.
  static void SetUpTestSuite() { setenv("FUSION_ATTENTION_ASSUME_ISA", "avx512_bf16", 0); }
  void TearDown() override { unsetenv("FUSION_ATTENTION_KERNEL"); }

  // All faults that fit this call; those that were made are counted.
  void expect_refusals(const RandomCached& random, std::uint64_t seed, const std::string& which) {
    const Problem& right = random.cached.problem;
    const Plan plan = make_plan(right);
    const auto untouched = output_bits(right);
    Draw draw(seed);
    for (std::size_t i = 0; i < faults_.size(); ++i) {
      Broken broken(right, draw);
      const char* argument = faults_[i].make(broken);
      if (!argument) continue;
      ++made_[i], ++refusals_;
      const Problem& p = broken.p;
      ASSERT_EQ(refused([&] { run(p); }), argument) << faults_[i].what << which;
      ASSERT_EQ(refused([&] { run(plan, p); }), argument) << faults_[i].what << which;
      ASSERT_EQ(refused([&] { run_reference(p); }), argument) << faults_[i].what << which;
      ASSERT_EQ(output_bits(right), untouched) << faults_[i].what << which;
    }
    ASSERT_EQ(random.made->trespassed(), 0) << which;
  }

  void expect_the_bits_of_plain_tensors(const RandomCached& random, const std::string& which) {
    random.made->poison_outputs();
    run(random.cached.problem);
    ASSERT_EQ(random.made->trespassed(), 0) << which;
    const auto bits = output_bits(random.cached.problem);
    random.made->poison_outputs();
    run(random.cached.twin);
    ASSERT_EQ(output_bits(random.cached.twin), bits) << which;
  }

  const Fault* never_made() const {
    for (std::size_t i = 0; i < faults_.size(); ++i)
      if (made_[i] == 0) return &faults_[i];
    return nullptr;
  }

  const std::vector<Fault> faults_ = all_faults();
  std::vector<int> made_ = std::vector<int>(faults_.size());
  int refusals_ = 0;
};

TEST_P(HostileCaches, AreRefusedAndTheirRightNeighboursComputed) {
  const std::string kind = GetParam();
  int computed = 0;
  for (int i = 0, draws = 0; i < calls() || (never_made() && draws < 100 * calls()); ++draws) {
    // Every second seed is the same in every run.
    const std::uint64_t seed =
        static_cast<std::uint64_t>(draws) + (draws % 2 ? testing::seed() : std::uint64_t{0});
    const RandomCached random(seed, /*infinities=*/false, draws / 2 % 2 ? Scores::joined : Scores::plain);
    const Problem& p = random.cached.problem;
    unsetenv("FUSION_ATTENTION_KERNEL");
    if (std::string(make_plan(p).kernel()).rfind(kind, 0) != 0) continue;
    const std::string which = "\n  " + text(p) + "\n  seed " + std::to_string(seed);
    expect_refusals(random, seed, which);
    for (const std::string& arch : arches()) {
      if (HasFatalFailure()) return;
      // An emulation takes its time.
      if (force(arch) == kNotAtAll || (arch == "amx_emulated" && i % 4 != 0)) continue;
      expect_the_bits_of_plain_tensors(random, which + ", " + arch);
      ++computed;
    }
    ++i;
  }
  const Fault* never = never_made();
  EXPECT_FALSE(never) << "never made: " << never->what;
  std::printf("note: %s: %d calls with a fault refused, their neighbours computed %d times\n", kind.c_str(),
              refusals_, computed);
}

INSTANTIATE_TEST_SUITE_P(Every, HostileCaches, ::testing::Values("decode", "forward"),
                         [](const auto& info) { return std::string(info.param); });

// A pool whose first read, which is a kernel's, writes another table.
struct Watched {
  static constexpr std::size_t kBytes = 2 * 16 * 8 * sizeof(float), kEntries = 64;

  static void written(int) {
    mprotect(pool.head(), pool.size(), PROT_READ);
    std::fill_n(table, kEntries, 1 << 30);
  }
  static void watch() {
    std::fill_n(table, kEntries, 0);
    mprotect(pool.head(), pool.size(), PROT_NONE);
    struct sigaction once{};
    once.sa_handler = written;
    once.sa_flags = static_cast<int>(SA_RESETHAND);
    sigaction(SIGSEGV, &once, nullptr);
  }

  static inline Guarded pool{kBytes};
  static inline std::int32_t table[kEntries];
};

// The caller may write the table while kernels run: they read what has been checked.
TEST(HostileTable, IsCopiedWhileItIsChecked) {
  auto* numbers = Watched::pool.tail<float>(Watched::kBytes);
  for (int i = 0; i < 2 * 16 * 8; ++i) numbers[i] = static_cast<float>(i % 13);
  set_thread_count(1);  // one thread meets the page
  for (const std::string& arch : arches())
    for (const std::int64_t rows : {1, 40}) {
      if (force(arch) == kNotAtAll) continue;
      Problem p = parse("fwd fp32 b1 h1 q" + std::to_string(rows) + " k1024 d8 pages(16)");
      p.key.shape[0] = p.value.shape[0] = 2;
      std::vector<float> query(static_cast<std::size_t>(rows) * 8, 0.125f), output(query.size());
      p.query.data = query.data(), p.output.data = output.data();
      p.key.data = p.value.data = numbers;
      p.cache.pages.table = Watched::table;
      std::fill_n(Watched::table, Watched::kEntries, 0);
      run(p);
      const auto wanted = output;
      Watched::watch();
      run(p);
      EXPECT_EQ(output, wanted) << arch;
      EXPECT_EQ(Watched::table[63], 1 << 30) << "nobody read the pool";
      EXPECT_THROW(run(p), Error) << arch;
    }
  set_thread_count(0);
  unsetenv("FUSION_ATTENTION_KERNEL");
}

// Strides of axes of one entry mean nothing: they may be anything that is not below 0.
TEST(HostileStrides, OfAxesOfOneEntryMeanNothing) {
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    const RandomCached random(seed);
    run(random.cached.problem);
    const auto bits = output_bits(random.cached.problem);
    Draw draw(seed);
    Broken huge(random.cached.problem, draw);
    auto views = tensors(huge);
    views.push_back({"query", &huge.p.query}), views.push_back({"output", &huge.p.output});
    for (const Named& one : views)
      for (std::size_t axis = 0; axis < 3; ++axis)
        if (one.view->shape[axis] == 1) one.view->stride[axis] = kMostNumber;
    random.made->poison_outputs();
    run(huge.p);
    ASSERT_EQ(output_bits(random.cached.problem), bits) << text(huge.p) << "\n  seed " << seed;
  }
}

}  // namespace
}  // namespace fusion_attention::testing
