// What the letters of a layout string say about the axes of a tensor. The only place the letters exist.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "fusion_attention/families/array.h"
#include "fusion_attention/tensor.h"

namespace fusion_attention {

// B batch, S sequence, N heads, D channels, H = N·D, T = the rows of all sequences, packed. The training
// interfaces have the first five.
enum class Layout : std::uint8_t { bsh, sbh, bsnd, bnsd, tnd, ntd, nbsd };

std::optional<Layout> parse_layout(std::string_view letters);  // in either case
const char* name(Layout layout);                               // "BSH"
int rank_of(Layout layout);

// Whether heads and channels share the last axis, so that only head_num tells them apart.
constexpr bool merges_heads(Layout layout) {
  return layout == Layout::bsh || layout == Layout::sbh;
}

constexpr bool is_packed(Layout layout) {
  return layout == Layout::tnd || layout == Layout::ntd;
}

// The shape of a tensor of that layout. Packed: batches = 1, rows = T.
std::vector<std::int64_t> shape_of(Layout layout, std::int64_t batches, std::int64_t heads, std::int64_t rows,
                                   std::int64_t channels);

// The logical [batch, head, row, channel] view of an array whose rank is rank_of(layout). `heads` must divide
// the last axis where heads are merged; elsewhere it is not read. Packed: one batch entry of T rows. Its
// element is float32, float16, bfloat16 or int8.
Dtype dtype_of(Element element);
TensorView view_of(const Array& array, Layout layout, std::int64_t heads);

}  // namespace fusion_attention
