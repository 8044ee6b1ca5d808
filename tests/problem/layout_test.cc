#include "problem/layout.h"

#include <gtest/gtest.h>

namespace fusion_attention {
namespace {

using Numbers = std::vector<std::int64_t>;

Array contiguous(const Numbers& shape) {
  return contiguous_array(nullptr, Element::bfloat16, shape.data(), static_cast<int>(shape.size()));
}

TEST(Layout, LettersInEitherCase) {
  EXPECT_EQ(parse_layout("BSH"), Layout::bsh);
  EXPECT_EQ(parse_layout("sbh"), Layout::sbh);
  EXPECT_EQ(parse_layout("bSnD"), Layout::bsnd);
  EXPECT_EQ(parse_layout("BNSD"), Layout::bnsd);
  EXPECT_EQ(parse_layout("tnd"), Layout::tnd);
  for (const char* wrong : {"", "BS", "BSHD", "NBDS", "BSND ", "TN"})
    EXPECT_FALSE(parse_layout(wrong)) << wrong;
}

// The offset of element (b, n, s, d) by the meaning of the letters, in a contiguous tensor of B N S D.
std::int64_t offset(Layout layout, std::int64_t b, std::int64_t n, std::int64_t s, std::int64_t d,
                    std::int64_t B, std::int64_t N, std::int64_t S, std::int64_t D) {
  switch (layout) {
    case Layout::bsh:
    case Layout::bsnd:
      return ((b * S + s) * N + n) * D + d;
    case Layout::sbh:
      return ((s * B + b) * N + n) * D + d;
    case Layout::bnsd:
      return ((b * N + n) * S + s) * D + d;
    default:
      return (s * N + n) * D + d;
  }
}

TEST(Layout, ViewsAddressTheElementThatTheLettersSay) {
  for (const Layout layout : {Layout::bsh, Layout::sbh, Layout::bsnd, Layout::bnsd, Layout::tnd}) {
    const std::int64_t B = layout == Layout::tnd ? 1 : 2, N = 3, S = 5, D = 7;
    const Numbers shape = shape_of(layout, B, N, S, D);
    ASSERT_EQ(static_cast<int>(shape.size()), rank_of(layout));
    const TensorView view = view_of(contiguous(shape), layout, N);
    EXPECT_EQ(view.dtype, Dtype::bfloat16);
    EXPECT_EQ(view.shape, (std::array<std::int64_t, 4>{B, N, S, D})) << name(layout);
    for (std::int64_t b = 0; b < B; ++b) {
      for (std::int64_t n = 0; n < N; ++n) {
        for (std::int64_t s = 0; s < S; ++s) {
          for (std::int64_t d = 0; d < D; ++d) {
            const std::int64_t at =
                b * view.stride[0] + n * view.stride[1] + s * view.stride[2] + d * view.stride[3];
            ASSERT_EQ(at, offset(layout, b, n, s, d, B, N, S, D)) << name(layout);
          }
        }
      }
    }
  }
}

TEST(Layout, MergedHeadsKeepTheStrideOfTheLastAxis) {
  Array transposed = contiguous({2, 5, 12});  // [B, S, H] whose channels are 10 elements apart
  transposed.stride = {60, 1, 5};
  const TensorView view = view_of(transposed, Layout::bsh, 3);
  EXPECT_EQ(view.shape, (std::array<std::int64_t, 4>{2, 3, 5, 4}));
  EXPECT_EQ(view.stride, (std::array<std::int64_t, 4>{60, 20, 1, 5}));
}

}  // namespace
}  // namespace fusion_attention
