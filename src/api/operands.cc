#include "api/operands.h"

#include <algorithm>

#include "api/refuse.h"

namespace fusion_attention {
namespace {

bool is_floating(Element element) {
  return element == Element::float32 || element == Element::float16 || element == Element::bfloat16;
}

}  // namespace

Layout layout_of(const std::string& letters) {
  const std::optional<Layout> layout = parse_layout(letters);
  if (!layout || *layout == Layout::ntd || *layout == Layout::nbsd)
    refuse("input_layout", quoted(letters), "BSH, SBH, BSND, BNSD or TND");
  return *layout;
}

void check_operand(const char* argument, const Array& array, const Array& query, Layout layout) {
  if (!array) refuse(argument, "None", "a tensor");
  if (!is_floating(array.element)) {
    refuse(argument, std::string("dtype ") + name(array.element), "float32, float16 or bfloat16");
  }
  if (array.rank != rank_of(layout)) {
    refuse(argument, "rank " + number(array.rank),
           "rank " + number(rank_of(layout)) + " for input_layout " + name(layout));
  }
  if (array.element != query.element) {
    refuse(argument, std::string("dtype ") + name(array.element),
           std::string("query's dtype ") + name(query.element));
  }
}

TensorView query_view(const Array& query, Layout layout, std::int64_t head_num) {
  const std::int64_t width = query.shape[static_cast<std::size_t>(query.rank - 1)];
  if (head_num <= 0) refuse("head_num", number(head_num), "query's number of heads, 1 or more");
  if (merges_heads(layout) && (width < head_num || width % head_num != 0)) {
    refuse("head_num", number(head_num), "a divisor of query's last axis " + number(width));
  }
  const TensorView view = view_of(query, layout, head_num);
  if (view.heads() != head_num)
    refuse("head_num", number(head_num), "query's number of heads " + number(view.heads()));
  if (view.channels() == 0) refuse("query", shape_text(query), "a head dimension D of 1 or more");
  return view;
}

// Where heads are merged, the key's width and D give its number of heads.
TensorView key_view(const Array& key, Layout layout, const TensorView& query) {
  std::int64_t heads = 0;
  if (merges_heads(layout)) {
    const std::int64_t width = key.shape[2], depth = query.channels();
    if (width == 0 || width % depth != 0) {
      refuse("key", "a last axis of " + number(width), "a positive multiple of D = " + number(depth));
    }
    heads = width / depth;
  }
  const TensorView view = view_of(key, layout, heads);
  if (view.channels() != query.channels()) {
    refuse("key", "D = " + number(view.channels()), "query's D = " + number(query.channels()));
  }
  if (view.batches() != query.batches()) {
    refuse("key", "a batch of " + number(view.batches()), "query's batch of " + number(query.batches()));
  }
  if (view.heads() == 0 || query.heads() % view.heads() != 0) {
    refuse("key", number(view.heads()) + " heads",
           "a divisor of query's " + number(query.heads()) + " heads");
  }
  return view;
}

TensorView value_view(const Array& value, Layout layout, const TensorView& key) {
  if (merges_heads(layout)) {
    const std::int64_t width = value.shape[2];
    if (width == 0 || width % key.heads() != 0) {
      refuse("value", "a last axis of " + number(width),
             "a positive multiple of key's " + number(key.heads()) + " heads");
    }
  }
  const TensorView view = view_of(value, layout, key.heads());
  if (view.channels() == 0) refuse("value", shape_text(value), "a head dimension of 1 or more");
  for (const auto& [axis, what] :
       {std::pair<std::size_t, const char*>{0, "batch"}, {1, "number of heads"}, {2, "length"}}) {
    if (view.shape[axis] != key.shape[axis]) {
      refuse("value", std::string("a ") + what + " of " + number(view.shape[axis]),
             std::string("key's ") + what + " of " + number(key.shape[axis]));
    }
  }
  return view;
}

Rope read_rope(const Array& query_rope, const Array& key_rope, const Array& query, Layout layout,
               const Problem& problem) {
  if (!query_rope && !key_rope) return {};
  check_operand("query_rope", query_rope, query, layout);
  check_operand("key_rope", key_rope, query, layout);
  const auto read = [layout](const char* argument, const Array& rope, const char* other,
                             const TensorView& beside) {
    const std::int64_t heads = beside.heads();
    if (merges_heads(layout) && (heads == 0 || rope.shape[2] % heads != 0))
      refuse(argument, "a last axis of " + number(rope.shape[2]),
             "a multiple of " + number(heads) + " heads");
    const TensorView view = view_of(rope, layout, heads);
    if (!std::equal(view.shape.begin(), view.shape.begin() + 3, beside.shape.begin()))
      refuse(argument, shape_text(rope), std::string(other) + "'s shape but for its D");
    return view;
  };
  const Rope rope{read("query_rope", query_rope, "query", problem.query),
                  read("key_rope", key_rope, "key", problem.key)};
  if (rope.channels() == 0) refuse("query_rope", shape_text(query_rope), "a head dimension of 1 or more");
  if (rope.key.channels() != rope.channels()) {
    refuse("key_rope", "D = " + number(rope.key.channels()), "query_rope's D = " + number(rope.channels()));
  }
  return rope;
}

bool has_shape(const Array& array, const std::vector<std::int64_t>& shape) {
  return array.rank == static_cast<int>(shape.size()) &&
         std::equal(shape.begin(), shape.end(), array.shape.begin());
}

std::int64_t count(const Array& array) {
  std::int64_t numbers = 1;
  for (int axis = 0; axis < array.rank; ++axis) numbers *= array.shape[static_cast<std::size_t>(axis)];
  return numbers;
}

bool is_contiguous(const Array& array) {
  if (count(array) == 0) return true;
  const Array packed = contiguous_array(nullptr, array.element, array.shape.data(), array.rank);
  for (std::size_t axis = 0; axis < static_cast<std::size_t>(array.rank); ++axis)
    if (array.shape[axis] > 1 && array.stride[axis] != packed.stride[axis]) return false;
  return true;
}

void check_statistics(const char* argument, const Array& array, const std::vector<std::int64_t>& shape) {
  if (!array) refuse(argument, "None", "the tensor that the forward returned");
  if (array.element != Element::float32)
    refuse(argument, std::string("dtype ") + name(array.element), "float32");
  if (!has_shape(array, shape)) {
    refuse(argument, shape_text(array), shape_text(shape.data(), shape.size()));
  }
  if (!is_contiguous(array)) refuse(argument, "strides", "a contiguous tensor");
}

}  // namespace fusion_attention
