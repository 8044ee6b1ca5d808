// The bits do not depend on the number of threads, on what else is in the batch, or on how splits are run.
//
// FUSION_ATTENTION_BITS_PROBLEMS sets the number of random problems per pass.
#include <gtest/gtest.h>

#include <cstdlib>

#include "arch/cpu.h"
#include "support/cached.h"
#include "support/outputs.h"
#include "support/random.h"
#include "support/random_problem.h"

namespace fusion_attention::testing {
namespace {

class Bits : public ::testing::Test {
 protected:
  // Before anything asks: an instruction set that CPUID hides but that executes is tested too.
  static void SetUpTestSuite() { setenv("FUSION_ATTENTION_ASSUME_ISA", "avx512_bf16", 0); }
  void TearDown() override {
    set_thread_count(0);
    unsetenv("FUSION_ATTENTION_KERNEL");
    unsetenv("FUSION_ATTENTION_MACHINE");
  }
};

// Of a problem with the outputs of `made`.
std::vector<std::byte> bits_with(Case& made, const Problem& problem, int threads) {
  set_thread_count(threads);
  made.poison_outputs();
  run(problem);
  return output_bits(problem);
}

void expect_same_on_any_threads(Case& made, const Problem& problem, const std::string& which) {
  const auto wanted = bits_with(made, problem, 1);
  for (const int threads : {2, 3, 8})
    ASSERT_EQ(bits_with(made, problem, threads), wanted)
        << threads << " threads: " << text(problem) << ", " << which;
}

// The statistics and output that a backward reads, by the library's own forward: the reference is slow.
void forward_first(Case& made) {
  if (made.problem.pass == Pass::forward) return;
  Problem forward = made.problem;
  forward.pass = Pass::forward;
  run(forward);
}

std::vector<std::string> kernels() {
  std::vector<std::string> all = {"scalar", "amx_emulated"};
  for (const arch::Isa isa : arch::kIsas)
    if (isa != arch::Isa::scalar && arch::detected(isa).usable) all.push_back(arch::name(isa));
  return all;
}

// The outputs of the one sequence that a problem has, without its statistics.
Problem rows_of(const Problem& problem) {
  const Sequence& s = problem.sequences[0];
  Problem rows = problem;
  rows.output.data = element(problem.output, s.batch, 0, s.row, 0);
  rows.output.shape[0] = 1, rows.output.shape[2] = s.rows;
  rows.statistics.max = rows.statistics.sum = nullptr;
  return rows;
}

bool is_slow(const std::string& kernel) {
  return kernel == "scalar" || kernel == "amx_emulated";
}

TEST_F(Bits, OfRandomProblemsAreTheSameOnAnyThreads) {
  const char* text_count = std::getenv("FUSION_ATTENTION_BITS_PROBLEMS");
  const int count = text_count ? std::atoi(text_count) : 100;
  for (const Pass pass : {Pass::forward, Pass::backward})
    for (int i = 0; i < count; ++i) {
      const std::uint64_t seed = i % 2 ? testing::seed() + static_cast<std::uint64_t>(i) : std::uint64_t(i);
      i / 2 % 2 ? setenv("FUSION_ATTENTION_MACHINE", "tiny", 1) : unsetenv("FUSION_ATTENTION_MACHINE");
      // One in eight on the rows that are slow here.
      i % 8 == 7 ? setenv("FUSION_ATTENTION_KERNEL", i % 16 == 7 ? "amx_emulated" : "scalar", 1)
                 : unsetenv("FUSION_ATTENTION_KERNEL");
      const auto made = random_case(seed, pass);
      expect_same_on_any_threads(*made, made->problem, "seed " + std::to_string(seed));
      if (HasFatalFailure()) return;
    }
}

TEST_F(Bits, OfCachesAreTheSameOnAnyThreads) {
  for (int i = 0; i < 24; ++i) {
    const std::uint64_t seed = i % 2 ? testing::seed() + static_cast<std::uint64_t>(i) : std::uint64_t(i);
    i / 2 % 2 ? setenv("FUSION_ATTENTION_MACHINE", "tiny", 1) : unsetenv("FUSION_ATTENTION_MACHINE");
    const RandomCached random(seed);
    expect_same_on_any_threads(*random.made, random.cached.problem, "seed " + std::to_string(seed));
    if (HasFatalFailure()) return;
  }
}

// Integers in pages, long enough for splits over keys; a decode and a forward.
TEST_F(Bits, OfLongCachesAreTheSameOnAnyThreads) {
  for (const std::int64_t rows : {1, 40}) {
    Case made(dense_problem(Pass::forward, Dtype::bfloat16, 2, 8, 2, rows, 3000, 40, 40, 0.3, {}), 3,
              Fill::normal, Layout::contiguous);
    int found = 0;
    for (std::uint64_t seed = 0; found < 3; ++seed) {
      Draw draw(seed);
      const Cached cached(made.problem, draw);
      if (!cached.problem.cache.pages || !is_integer(cached.problem.key.dtype)) continue;
      ++found;
      for (const std::string& kernel : kernels()) {
        if (rows > 1 && is_slow(kernel)) continue;
        setenv("FUSION_ATTENTION_KERNEL", kernel.c_str(), 1);
        expect_same_on_any_threads(made, cached.problem, kernel + ", seed " + std::to_string(seed));
        if (HasFatalFailure()) return;
      }
    }
  }
}

// What else is in the batch, and where its pages are, is nothing to a sequence.
TEST_F(Bits, OfASequenceOfACacheAreThoseOfTheSequenceAlone) {
  int compared = 0;
  for (std::uint64_t seed = 0; compared < 60; ++seed) {
    const RandomCached random(seed);
    const Problem& p = random.cached.problem;
    if (p.sequences.size() < 2) continue;
    Problem alone = p;
    alone.sequences = {p.sequences[seed % p.sequences.size()]};
    if (alone.sequences[0].rows == 0) continue;
    bits_with(*random.made, p, 3);
    const auto together = output_bits(rows_of(alone));
    bits_with(*random.made, alone, 2);
    ASSERT_EQ(output_bits(rows_of(alone)), together) << text(p) << ", seed " << seed;
    ++compared;
  }
}

// Long enough for every kind of split and for row ranges that the threads change; windows, whose first
// visible key moves with the row range.
TEST_F(Bits, OfLongProblemsAreTheSameOnAnyThreads) {
  struct Size {
    std::int64_t heads, kv_heads, rows, keys;
  };
  const Size sizes[] = {
      {2, 2, 1100, 1100}, {4, 1, 3, 3000}, {1, 1, 130, 2500}, {1, 1, 1300, 500}, {24, 2, 40, 1100}};
  for (const std::string& kernel : kernels()) {
    setenv("FUSION_ATTENTION_KERNEL", kernel.c_str(), 1);
    const bool slow = is_slow(kernel);
    for (const Pass pass : {Pass::forward, Pass::backward})
      for (const Dtype dtype : {Dtype::float32, Dtype::float16, Dtype::bfloat16})
        for (const Size& size : sizes) {
          if (slow && (pass == Pass::backward || dtype == Dtype::bfloat16 || size.rows != size.keys))
            continue;
          const std::int64_t corner = size.keys - size.rows, depth = slow ? 4 : 40;
          for (const Band& band : {Band{.hi = corner}, Band{.lo = corner - 333, .hi = corner + 17}}) {
            Case made(dense_problem(pass, dtype, 1, size.heads, size.kv_heads, size.rows, size.keys, depth,
                                    depth, 0.3, band),
                      7, Fill::normal, Layout::contiguous);
            forward_first(made);
            expect_same_on_any_threads(made, made.problem, kernel);
            if (HasFatalFailure()) return;
          }
        }
  }
}

// Rows of heads share a block or do not, as the threads have it: steps that a mask hides from a whole block
// differ, the sums must not.
TEST_F(Bits, OfMasksWithGapsAreTheSameOnAnyThreads) {
  constexpr std::int64_t kKeys = 1100;
  for (const std::string& kernel : kernels())
    for (const Dtype dtype : {Dtype::float32, Dtype::float16})
      for (const std::int64_t rows : {40, 75, 300}) {
        if (rows == 300 && is_slow(kernel)) continue;
        setenv("FUSION_ATTENTION_KERNEL", kernel.c_str(), 1);
        std::vector<std::uint8_t> hidden(rows * kKeys);
        for (std::int64_t i = 0; i < rows; ++i)
          for (std::int64_t j = 0; j < kKeys; ++j) hidden[i * kKeys + j] = (i / 4 + j / 32) % 5 > 1;
        for (const Pass pass : {Pass::forward, Pass::backward}) {
          if (pass == Pass::backward && is_slow(kernel)) continue;
          Problem p = dense_problem(pass, dtype, 1, 6, 2, rows, kKeys, 8, 8, 0.3, {});
          p.overlay.stride = {0, 0, kKeys, 1};
          Case made(p, 3, Fill::normal, Layout::contiguous);
          made.problem.overlay.data = hidden.data();
          forward_first(made);
          expect_same_on_any_threads(made, made.problem, kernel);
          if (HasFatalFailure()) return;
        }
      }
}

// A mask without heads is read once for all of them, and once for batches that share it: no other bits than
// where every head has a copy of its own.
TEST_F(Bits, OfAMaskWithoutHeadsAreThoseOfOneThatRepeatsIt) {
  constexpr std::int64_t kBatches = 2, kHeads = 2;
  for (const Pass pass : {Pass::forward, Pass::backward})
    for (const std::string& kernel : kernels())
      for (const std::int64_t rows : {75, 545})  // 545: too many to be split over keys
        for (const bool shared : {false, true}) {
          if (rows == 545 && is_slow(kernel)) continue;
          setenv("FUSION_ATTENTION_KERNEL", kernel.c_str(), 1);
          const std::int64_t keys = rows == 75 ? 700 : 2100, plane = rows * keys;
          std::vector<std::uint8_t> hidden(static_cast<std::size_t>(kBatches * kHeads * plane));
          for (std::size_t at = 0; at < hidden.size(); ++at) {
            const auto e = static_cast<std::int64_t>(at);
            const std::int64_t batch = e / plane / kHeads, i = e % plane / keys, j = e % keys;
            hidden[at] = (i / 4 + j / 32 + (shared ? 0 : batch)) % 5 > 1 || (i * 7 + j) % 31 == 0;
          }
          Problem p = dense_problem(pass, Dtype::float32, kBatches, kHeads, kHeads, rows, keys, 8, 8, 0.3,
                                    {.hi = keys - rows - 3});
          p.overlay.stride = {kHeads * plane, plane, keys, 1};
          Case made(p, 3, Fill::normal, Layout::contiguous);
          made.problem.overlay.data = hidden.data();
          forward_first(made);
          const auto wanted = bits_with(made, made.problem, 2);
          made.problem.overlay.stride[1] = 0;
          if (shared) made.problem.overlay.stride[0] = 0;
          EXPECT_EQ(bits_with(made, made.problem, 2), wanted) << kernel << " " << rows << " " << shared;
        }
}

// The same memory, seen as a smaller problem: heads [head, head + heads) of batch entry `batch`.
TensorView slice(TensorView v, std::int64_t batch, std::int64_t head, std::int64_t heads) {
  v.data = element(v, batch, head, 0, 0);
  v.shape[0] = 1, v.shape[1] = heads;
  return v;
}

TEST_F(Bits, OfABatchAndHeadSliceAreThoseOfTheSliceAlone) {
  for (const Pass pass : {Pass::forward, Pass::backward})
    for (const std::int64_t rows : {1, 5, 700, 1500}) {
      const std::int64_t keys = 1700;
      Case made(dense_problem(pass, Dtype::float32, 3, 4, 2, rows, keys, 32, 32, 0.3, {.hi = keys - rows}),
                11, Fill::normal, Layout::contiguous);
      forward_first(made);

      Problem part = made.problem;
      for (auto view :
           {&Problem::query, &Problem::output, &Problem::output_gradient, &Problem::query_gradient})
        if ((part.*view).data) part.*view = slice(made.problem.*view, 1, 2, 2);
      for (auto view : {&Problem::key, &Problem::value, &Problem::key_gradient, &Problem::value_gradient})
        if ((part.*view).data) part.*view = slice(made.problem.*view, 1, 1, 1);
      part.sequences = {made.problem.sequences[1]};
      part.sequences[0].batch = 0;
      const std::int64_t first = (4 + 2) * rows * part.statistics.copies;
      part.statistics.max += first, part.statistics.sum += first;

      bits_with(made, made.problem, 3);
      const auto in_the_whole = output_bits(part);
      made.poison_outputs();
      set_thread_count(1);
      run(part);
      EXPECT_EQ(output_bits(part), in_the_whole) << text(made.problem);
    }
}

// A short sequence goes to the decode kernel whatever it is packed with.
TEST_F(Bits, OfAShortSequenceAreTheSameBesideALongOne) {
  Problem p = dense_problem(Pass::forward, Dtype::bfloat16, 1, 4, 2, 2 + 300, 900 + 300, 64, 64, 0.125, {});
  p.sequences = {
      {.batch = 0, .row = 0, .rows = 2, .key = 0, .keys = 900, .row0 = 0, .key0 = 0, .band = {}},
      {.batch = 0, .row = 2, .rows = 300, .key = 900, .keys = 300, .row0 = 0, .key0 = 0, .band = {}}};
  p.statistics.order = StatisticsOrder::row_major;
  Case made(p, 5, Fill::normal, Layout::contiguous);
  bits_with(made, made.problem, 2);
  Problem first = made.problem;
  for (auto view : {&Problem::query, &Problem::output}) (first.*view).shape[2] = 2;
  for (auto view : {&Problem::key, &Problem::value}) (first.*view).shape[2] = 900;
  first.sequences.resize(1);
  const auto together = output_bits(first);
  made.poison_outputs();
  run(first);
  EXPECT_EQ(output_bits(first), together);
  EXPECT_EQ(std::string(make_plan(first).kernel()).substr(0, 6), "decode");
  EXPECT_EQ(std::string(make_plan(made.problem).kernel()).substr(0, 7), "forward");
}

}  // namespace
}  // namespace fusion_attention::testing
