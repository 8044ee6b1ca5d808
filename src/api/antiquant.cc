#include "api/antiquant.h"

#include <cstddef>
#include <optional>
#include <string>

#include "api/operands.h"
#include "api/refuse.h"
#include "problem/layout.h"

namespace fusion_attention {
namespace {

using Strides = std::array<std::int64_t, 4>;

// The strides that channels have in one of their documented shapes: [Nkv, 1, D], [Nkv, D], [Nkv·D], each
// with a leading 1 or without; nothing where the shape is none of them.
std::optional<Strides> channel_strides(const Array& scale, std::int64_t heads, std::int64_t channels) {
  const auto at = [&scale](int axis) { return scale.stride[static_cast<std::size_t>(axis)]; };
  for (const int leading : {0, 1}) {
    std::vector<std::int64_t> shape(static_cast<std::size_t>(leading), 1);
    const auto with = [&shape](std::initializer_list<std::int64_t> more) {
      std::vector<std::int64_t> all = shape;
      all.insert(all.end(), more);
      return all;
    };
    if (has_shape(scale, with({heads, 1, channels}))) return Strides{0, at(leading), 0, at(leading + 2)};
    if (has_shape(scale, with({heads, channels}))) return Strides{0, at(leading), 0, at(leading + 1)};
    if (has_shape(scale, with({heads * channels}))) return Strides{0, channels * at(leading), 0, at(leading)};
  }
  return std::nullopt;
}

// [batches, at least `tokens`], with heads between for mode 3; mode 1 with a leading 1 or without.
std::optional<Strides> token_strides(const Array& scale, std::int64_t mode, std::int64_t batches,
                                     std::int64_t heads, std::int64_t tokens) {
  const auto at = [&scale](int axis) { return scale.stride[static_cast<std::size_t>(axis)]; };
  const int last = scale.rank - 1;
  if (scale.rank < 2 || scale.rank > 3 || scale.shape[static_cast<std::size_t>(last)] < tokens) {
    return std::nullopt;
  }
  if (mode == 3) {
    const bool fits = scale.rank == 3 && scale.shape[0] == batches && scale.shape[1] == heads;
    return fits ? std::optional(Strides{at(0), at(1), at(2), 0}) : std::nullopt;
  }
  const bool fits =
      scale.shape[static_cast<std::size_t>(last - 1)] == batches && (scale.rank == 2 || scale.shape[0] == 1);
  return fits ? std::optional(Strides{at(last - 1), 0, at(last), 0}) : std::nullopt;
}

std::optional<Strides> strides_of(const Array& scale, std::int64_t mode, const TensorView& stored,
                                  std::int64_t batches, std::int64_t tokens) {
  const std::int64_t heads = stored.heads();
  switch (mode) {
    case 0:
      if (scale.rank <= 1 && count(scale) == 1) return Strides{};
      return channel_strides(scale, heads, stored.channels());
    case 2:
      return has_shape(scale, {heads}) ? std::optional(Strides{0, scale.stride[0], 0, 0}) : std::nullopt;
    case 4:
      return has_shape(scale, {stored.batches(), stored.rows()})
                 ? std::optional(Strides{scale.stride[0], 0, scale.stride[1], 0})
                 : std::nullopt;
    case 5:
      return has_shape(scale, {stored.batches(), heads, stored.rows()})
                 ? std::optional(Strides{scale.stride[0], scale.stride[1], scale.stride[2], 0})
                 : std::nullopt;
    default:
      return token_strides(scale, mode, batches, heads, tokens);
  }
}

std::string allowed_shapes(std::int64_t mode, const TensorView& stored, std::int64_t batches,
                           std::int64_t tokens) {
  const std::string heads = number(stored.heads()), channels = number(stored.channels());
  const std::string pages = number(stored.batches()), rows = number(stored.rows());
  switch (mode) {
    case 0:
      return "[1], [" + heads + ", 1, " + channels + "], [" + heads + ", " + channels + "] or [" +
             number(stored.heads() * stored.channels()) + "] for mode 0";
    case 1:
      return "[" + number(batches) + ", " + number(tokens) + " or more] for mode 1";
    case 2:
      return "[" + heads + "] for mode 2";
    case 3:
      return "[" + number(batches) + ", " + heads + ", " + number(tokens) + " or more] for mode 3";
    case 4:
      return "[" + pages + ", " + rows + "] for mode 4";
    default:
      return "[" + pages + ", " + heads + ", " + rows + "] for mode 5";
  }
}

void check_type(const char* argument, const Array& scale, std::int64_t mode, Dtype query) {
  const bool tokens = mode == 1 || mode > 2;
  const bool fits = scale.element == Element::float32 ||
                    (!tokens && (scale.element == Element::float16 || scale.element == Element::bfloat16) &&
                     dtype_of(scale.element) == query);
  if (!fits) {
    refuse(argument, std::string("dtype ") + name(scale.element),
           tokens ? "float32 for scales per token" : "query's dtype or float32");
  }
}

// `batches`, `rows`: of the tensor that the scales belong to.
TensorView view_like(const TensorView& stored, std::int64_t batches, std::int64_t rows, const Array& scale,
                     const Strides& strides) {
  TensorView view = stored;
  view.shape[0] = batches;
  view.shape[2] = rows;
  view.data = scale.data;
  view.dtype = dtype_of(scale.element);
  view.stride = strides;
  return view;
}

}  // namespace

Array half_of(const char* argument, const Array& stacked, std::int64_t half) {
  if (stacked.rank < 1 || stacked.rank > Array::kMaxRank || stacked.shape[0] != 2) {
    refuse(argument, shape_text(stacked), "a first axis of 2, key's and value's");
  }
  Array one = stacked;
  one.rank = stacked.rank - 1;
  if (stacked.data)
    one.data = static_cast<std::byte*>(stacked.data) + half * stacked.stride[0] * size_of(stacked.element);
  for (std::size_t axis = 0; axis < static_cast<std::size_t>(one.rank); ++axis) {
    one.shape[axis] = stacked.shape[axis + 1];
    one.stride[axis] = stacked.stride[axis + 1];
  }
  return one;
}

Scaling scaling_of(const Antiquant& given, const TensorView& stored, Dtype query, std::int64_t batches,
                   std::int64_t tokens, bool paged) {
  const std::int64_t mode = given.mode;
  if (mode < 0 || mode > 5) refuse(given.mode_name, number(mode), "0 to 5");
  if (mode > 3 && !paged) refuse(given.mode_name, number(mode), "0 to 3 without block_table");
  const bool by_position = paged && (mode == 1 || mode == 3);
  const auto read = [&](const char* argument, const Array& array) {
    check_type(argument, array, mode, query);
    const std::optional<Strides> strides =
        array.rank > Array::kMaxRank ? std::nullopt : strides_of(array, mode, stored, batches, tokens);
    if (!strides) refuse(argument, shape_text(array), allowed_shapes(mode, stored, batches, tokens));
    if (stored.channels() > 1 && (*strides)[3] > 1)
      refuse(argument, "channels " + number((*strides)[3]) + " apart", "channels side by side");
    return view_like(stored, by_position ? batches : stored.batches(), by_position ? tokens : stored.rows(),
                     array, *strides);
  };
  Scaling scaling;
  scaling.by_position = by_position;
  scaling.scale = read(given.scale_name, given.scale);
  if (given.offset) {
    if (given.offset.element != given.scale.element) {
      refuse(given.offset_name, std::string("dtype ") + name(given.offset.element),
             std::string(given.scale_name) + "'s dtype " + name(given.scale.element));
    }
    scaling.offset = read(given.offset_name, given.offset);
  }
  return scaling;
}

}  // namespace fusion_attention
