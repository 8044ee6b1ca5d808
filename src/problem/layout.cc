#include "problem/layout.h"

#include <array>

namespace fusion_attention {
namespace {

struct Description {
  const char* letters;
  int rank;
  int batch, head, row, channel;  // the axis of each; -1: this layout has none of its own
};

constexpr std::array<Description, 7> kLayouts = {{
    {"BSH", 3, 0, -1, 1, 2},
    {"SBH", 3, 1, -1, 0, 2},
    {"BSND", 4, 0, 2, 1, 3},
    {"BNSD", 4, 0, 1, 2, 3},
    {"TND", 3, -1, 1, 0, 2},
    {"NTD", 3, -1, 0, 1, 2},
    {"NBSD", 4, 1, 0, 2, 3},
}};

const Description& describe(Layout layout) {
  return kLayouts[static_cast<std::size_t>(layout)];
}

bool same_letters(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const char upper = a[i] >= 'a' && a[i] <= 'z' ? static_cast<char>(a[i] - 'a' + 'A') : a[i];
    if (upper != b[i]) return false;
  }
  return true;
}

}  // namespace

std::optional<Layout> parse_layout(std::string_view letters) {
  for (std::size_t i = 0; i < kLayouts.size(); ++i) {
    if (same_letters(letters, kLayouts[i].letters)) return static_cast<Layout>(i);
  }
  return std::nullopt;
}

const char* name(Layout layout) {
  return describe(layout).letters;
}

int rank_of(Layout layout) {
  return describe(layout).rank;
}

std::vector<std::int64_t> shape_of(Layout layout, std::int64_t batches, std::int64_t heads, std::int64_t rows,
                                   std::int64_t channels) {
  const Description& axes = describe(layout);
  std::vector<std::int64_t> shape(static_cast<std::size_t>(axes.rank));
  const auto put = [&shape](int axis, std::int64_t size) {
    if (axis >= 0) shape[static_cast<std::size_t>(axis)] = size;
  };
  put(axes.batch, batches);
  put(axes.head, heads);
  put(axes.row, rows);
  put(axes.channel, axes.head < 0 ? heads * channels : channels);
  return shape;
}

Dtype dtype_of(Element element) {
  switch (element) {
    case Element::float16:
      return Dtype::float16;
    case Element::bfloat16:
      return Dtype::bfloat16;
    case Element::int8:
      return Dtype::int8;
    default:
      return Dtype::float32;
  }
}

TensorView view_of(const Array& array, Layout layout, std::int64_t heads) {
  const Description& axes = describe(layout);
  TensorView view;
  view.data = array.data;
  view.dtype = dtype_of(array.element);
  const auto take = [&](std::size_t logical, int axis) {
    view.shape[logical] = array.shape[static_cast<std::size_t>(axis)];
    view.stride[logical] = array.stride[static_cast<std::size_t>(axis)];
  };
  take(2, axes.row);
  take(3, axes.channel);
  if (axes.batch >= 0) {
    take(0, axes.batch);
  } else {
    view.shape[0] = 1;
  }
  if (axes.head >= 0) {
    take(1, axes.head);
  } else {
    view.shape[1] = heads;
    view.shape[3] /= heads;
    view.stride[1] = view.stride[3] * view.shape[3];
  }
  return view;
}

}  // namespace fusion_attention
