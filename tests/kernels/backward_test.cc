// What a dense mask hides from the backward, on every kernel row that runs here and both blockings.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstring>
#include <vector>

#include "support/case.h"
#include "support/every_blocking.h"
#include "support/outputs.h"

namespace fusion_attention::testing {
namespace {

class MaskedBackward : public EveryBlocking {};

constexpr std::int64_t kLength = 384, kDepth = 8;

// Documents of 150, 106 and 128, which see themselves; the mask is the same for all heads or repeated.
std::int64_t document_of(std::int64_t i) {
  return i < 150 ? 0 : i < 256 ? 1 : 2;
}
std::vector<std::uint8_t> documents(std::int64_t heads) {
  std::vector<std::uint8_t> hidden(static_cast<std::size_t>(heads * kLength * kLength));
  for (std::size_t at = 0; at < hidden.size(); ++at) {
    const auto e = static_cast<std::int64_t>(at) % (kLength * kLength);
    hidden[at] = document_of(e / kLength) != document_of(e % kLength);
  }
  return hidden;
}
Problem documents_problem(Dtype dtype) {
  return dense_problem(Pass::backward, dtype, 1, 2, 1, kLength, kLength, kDepth, kDepth, 0.2, {});
}
void forward_first(Case& made) {
  Problem forward = made.problem;
  forward.pass = Pass::forward;
  run(forward);
}

// Whatever is in a document, another has the gradients that it had.
TEST_P(MaskedBackward, ADocumentOfNanReachesNoOther) {
  for (const Dtype dtype : {Dtype::float32, Dtype::bfloat16})
    for (const std::int64_t heads : {1, 2}) {
      const std::vector<std::uint8_t> hidden = documents(heads);
      std::vector<double> wanted;
      for (const bool nan : {false, true}) {
        Case made(documents_problem(dtype), 4, Fill::normal, Layout::contiguous);
        Problem& p = made.problem;
        p.overlay.data = hidden.data();
        p.overlay.stride = {0, heads == 1 ? 0 : kLength * kLength, kLength, 1};
        for (const TensorView* v : {&p.query, &p.key, &p.value, &p.output_gradient})
          for (std::int64_t n = 0; n < v->heads() && nan; ++n)
            for (std::int64_t i = 150; i < 256; ++i) write(*v, 0, n, i, i % kDepth, NAN);
        forward_first(made);
        made.poison_outputs();
        run(p);
        std::vector<double> got;
        for (const TensorView* v : {&p.query_gradient, &p.key_gradient, &p.value_gradient})
          for (std::int64_t n = 0; n < v->heads(); ++n)
            for (std::int64_t i = 0; i < kLength; ++i)
              for (std::int64_t c = 0; c < kDepth; ++c)
                if (document_of(i) != 1) got.push_back(read(*v, 0, n, i, c));
        if (nan) {
          EXPECT_EQ(got, wanted) << name(dtype) << ", " << heads;
          EXPECT_TRUE(std::isnan(read(p.key_gradient, 0, 0, 200, 0)));
        }
        wanted = got;
      }
    }
}

// Keys and values that nobody sees are not even read, a group of 128 keys at a time.
TEST_P(MaskedBackward, KeysThatNobodySeesAreNotTouched) {
  std::vector<std::uint8_t> hidden(kLength * kLength);
  for (std::int64_t i = 0; i < kLength; ++i) std::memset(hidden.data() + i * kLength + 128, 1, 128);
  Case made(dense_problem(Pass::backward, Dtype::float32, 1, 1, 1, kLength, kLength, 64, 64, 0.2, {}), 4,
            Fill::normal, Layout::contiguous);
  Problem& p = made.problem;
  p.overlay.data = hidden.data();
  p.overlay.stride = {0, 0, kLength, 1};
  forward_first(made);
  constexpr std::size_t kPlane = kLength * 64 * sizeof(float);  // whole pages
  for (TensorView* v : {&p.key, &p.value}) {
    void* copy = mmap(nullptr, kPlane, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(copy, MAP_FAILED);
    std::memcpy(copy, v->data, kPlane);
    ASSERT_EQ(mprotect(static_cast<std::byte*>(copy) + kPlane / 3, kPlane / 3, PROT_NONE), 0);
    v->data = copy;
  }
  made.poison_outputs();
  run(p);
  for (const TensorView* v : {&p.key_gradient, &p.value_gradient}) {
    EXPECT_EQ(read(*v, 0, 0, 128, 3), 0);
    EXPECT_EQ(read(*v, 0, 0, 255, 3), 0);
    EXPECT_NE(read(*v, 0, 0, 127, 3), 0);
    EXPECT_NE(read(*v, 0, 0, 256, 3), 0);
  }
  for (const TensorView* v : {&p.key, &p.value}) munmap(v->data, kPlane);
}

INSTANTIATE_TEST_SUITE_P(EveryArch, MaskedBackward, every_blocking(), name_of_blocking);

}  // namespace
}  // namespace fusion_attention::testing
