// The same bits for every number of threads, and for a slice of a batch computed alone.
#include <gtest/gtest.h>

#include <cstring>

#include "support/random.h"
#include "support/random_problem.h"

namespace fusion_attention::testing {
namespace {

std::vector<double> outputs(const Problem& p) {
  std::vector<double> all;
  const auto append = [&](const TensorView& v) {
    for (std::int64_t b = 0; b < v.batches(); ++b)
      for (std::int64_t h = 0; h < v.heads(); ++h)
        for (std::int64_t r = 0; r < v.rows(); ++r)
          for (std::int64_t c = 0; c < v.channels(); ++c) all.push_back(read(v, b, h, r, c));
  };
  if (p.pass == Pass::backward) {
    append(p.query_gradient), append(p.key_gradient), append(p.value_gradient);
    return all;
  }
  append(p.output);
  if (!p.statistics.max) return all;
  const std::int64_t entries = p.query.batches() * p.query.heads() * p.query.rows() * p.statistics.copies;
  all.insert(all.end(), p.statistics.max, p.statistics.max + entries);
  all.insert(all.end(), p.statistics.sum, p.statistics.sum + entries);
  return all;
}

bool same_bits(const std::vector<double>& a, const std::vector<double>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(double)) == 0);
}

TEST(Threads, DoNotChangeABit) {
  for (const Pass pass : {Pass::forward, Pass::backward})
    for (int i = 0; i < 200; ++i) {
      const std::uint64_t seed =
          i % 2 ? testing::seed() + static_cast<std::uint64_t>(i) : static_cast<std::uint64_t>(i);
      const auto made = random_case(seed, pass);
      set_thread_count(1);
      run(made->problem);
      const auto alone = outputs(made->problem);
      for (const int threads : {2, 3, 8}) {
        made->poison_outputs();
        set_thread_count(threads);
        run(made->problem);
        ASSERT_TRUE(same_bits(alone, outputs(made->problem)))
            << threads << " threads\n  " << text(made->problem) << "\n  seed " << seed;
      }
      set_thread_count(0);
    }
}

// Batch entry b as a problem of its own.
Problem slice(const Problem& p, std::int64_t b) {
  Problem one = p;
  for (TensorView* v : {&one.query, &one.key, &one.value, &one.output, &one.output_gradient,
                        &one.query_gradient, &one.key_gradient, &one.value_gradient}) {
    if (!v->data) continue;
    v->data = static_cast<std::byte*>(v->data) + b * v->stride[0] * size_of(v->dtype);
    v->shape[0] = 1;
  }
  one.sequences = {p.sequences[static_cast<std::size_t>(b)]};
  one.sequences[0].batch = 0;
  const std::int64_t entries = b * p.query.heads() * p.query.rows() * p.statistics.copies;
  if (one.statistics.max) one.statistics.max += entries, one.statistics.sum += entries;
  if (one.overlay) one.overlay.data += b * one.overlay.stride[0];
  return one;
}

TEST(Slices, OfABatchAreBitwiseTheSameAlone) {
  int compared = 0;
  for (std::uint64_t seed = 0; compared < 60; ++seed) {
    const auto made = random_case(seed, seed % 2 ? Pass::backward : Pass::forward);
    const Problem& p = made->problem;
    if (p.query.batches() < 2 || static_cast<std::int64_t>(p.sequences.size()) != p.query.batches()) continue;
    run(p);
    const auto together = outputs(slice(p, 1));
    made->poison_outputs();
    run(slice(p, 1));
    ASSERT_TRUE(same_bits(together, outputs(slice(p, 1)))) << text(p) << "\n  seed " << seed;
    ++compared;
  }
}

}  // namespace
}  // namespace fusion_attention::testing
