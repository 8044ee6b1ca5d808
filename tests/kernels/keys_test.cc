// Keys of a cache that no row sees, on every kernel row that runs here.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "fusion_attention/fusion_attention.h"
#include "support/every_arch.h"
#include "support/guarded.h"
#include "support/kernel_choice.h"

namespace fusion_attention::testing {
namespace {

class CachedKeys : public KernelChoice, public ::testing::WithParamInterface<std::string> {
 protected:
  void SetUp() override {
    if (force(GetParam()) == kNotAtAll) GTEST_SKIP() << GetParam() << " does not execute on this CPU";
  }
};

constexpr std::int64_t kDepth = 16;

// One head, pages of one key, the first `used` of them in memory that ends with the last one.
struct Paged {
  Paged(std::int64_t rows, std::int64_t keys, std::int64_t used, Band band)
      : query(static_cast<std::size_t>(rows * kDepth), 0.1f),
        output(query.size()),
        table(static_cast<std::size_t>(keys), -1),
        memory(static_cast<std::size_t>(used * kDepth) * sizeof(float)) {
    stored = memory.tail<float>(static_cast<std::size_t>(used * kDepth) * sizeof(float));
    std::fill_n(stored, used * kDepth, 0.5f);
    for (std::int64_t i = 0; i < used; ++i) table[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(i);
    problem.query = view(query.data(), 1, rows), problem.output = view(output.data(), 1, rows);
    problem.key = problem.value = view(stored, used, 1);
    problem.cache.pages = {table.data(), keys};
    problem.sequences = {{.rows = rows, .keys = keys, .band = band}};
  }

  static TensorView view(float* data, std::int64_t batches, std::int64_t rows) {
    return {.data = data,
            .shape = {batches, 1, rows, kDepth},
            .stride = {rows * kDepth, rows * kDepth, kDepth, 1}};
  }

  std::vector<float> query, output;
  std::vector<std::int32_t> table;
  Guarded memory;
  float* stored;
  Problem problem;
};

// The keys of a step that nobody sees have no page: not even a NaN of V may lead to them, whatever an earlier
// call left in the plan's copy of the table. Here a page that would lie in the guard.
TEST_P(CachedKeys, ANanDoesNotLeadToThoseThatNobodySees) {
  Paged before(64, 400, 400, {});
  std::fill(before.table.begin(), before.table.end(), 40);
  run(before.problem);
  Paged paged(33, 64, 33, {.hi = 0});
  paged.stored[32 * kDepth] = NAN;
  run(paged.problem);
  EXPECT_NEAR(paged.output[31 * kDepth], 0.5, 1e-6);
  EXPECT_TRUE(std::isnan(paged.output[32 * kDepth]));
}

INSTANTIATE_TEST_SUITE_P(EveryArch, CachedKeys, ::testing::ValuesIn(arches()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace fusion_attention::testing
