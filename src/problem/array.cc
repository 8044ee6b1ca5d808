#include "fusion_attention/families/array.h"

#include <algorithm>
#include <cstddef>

namespace fusion_attention {

const char* name(Element element) {
  constexpr std::array<const char*, 11> names = {"float32", "float16", "bfloat16",    "bool",
                                                 "uint8",   "int8",    "int32",       "int64",
                                                 "float64", "uint64",  "another type"};
  return names[static_cast<std::size_t>(element)];
}

std::int64_t size_of(Element element) {
  constexpr std::array<std::int64_t, 11> sizes = {4, 2, 2, 1, 1, 1, 4, 8, 8, 8, 0};
  return sizes[static_cast<std::size_t>(element)];
}

Array contiguous_array(void* data, Element element, const std::int64_t* shape, int rank) {
  Array array{.data = data, .element = element, .rank = rank};
  std::int64_t step = 1;
  for (int axis = rank - 1; axis >= 0; --axis) {
    const auto i = static_cast<std::size_t>(axis);
    array.shape[i] = shape[axis];
    array.stride[i] = step;
    step *= std::max<std::int64_t>(shape[axis], 1);  // an empty axis leaves the other strides distinct
  }
  return array;
}

}  // namespace fusion_attention
