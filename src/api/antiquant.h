// The scales of stored keys and values: antiquant_scale and its six modes become views over what they scale.
#pragma once

#include <cstdint>

#include "fusion_attention/families/array.h"
#include "fusion_attention/problem.h"

namespace fusion_attention {

// One operand's scales as the caller gave them: mode 0 per tensor or channel, 1 per token, 2 per head, 3 per
// token and head; 4 and 5 are 1 and 3 in pages.
struct Antiquant {
  const char* scale_name;
  const char* offset_name;
  const char* mode_name;
  Array scale, offset;
  std::int64_t mode = 0;

  explicit operator bool() const { return static_cast<bool>(scale); }
};

// One half of scales that key and value have in one tensor: axis 0 is 2. `half` 0: key's.
Array half_of(const char* argument, const Array& stacked, std::int64_t half);

// Views with the axes of `stored`: [B or pages, Nkv, rows, D]; modes 1 and 3 of keys in pages go by position.
// `tokens`: the keys that a sequence can have. Throws Error.
Scaling scaling_of(const Antiquant& given, const TensorView& stored, Dtype query, std::int64_t batches,
                   std::int64_t tokens, bool paged);

}  // namespace fusion_attention
