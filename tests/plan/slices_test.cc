// The bits of a random problem's batch entry are those of the entry alone.
#include <gtest/gtest.h>

#include "support/outputs.h"
#include "support/random_problem.h"

namespace fusion_attention::testing {
namespace {

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
    const auto together = output_bits(slice(p, 1));
    made->poison_outputs();
    run(slice(p, 1));
    ASSERT_EQ(output_bits(slice(p, 1)), together) << text(p) << "\n  seed " << seed;
    ++compared;
  }
}

}  // namespace
}  // namespace fusion_attention::testing
