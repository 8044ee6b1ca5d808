// The scales of stored keys and values: antiquant_scale and its six modes become views over what they scale.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

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

// Scales per token of sequences that lie in pages, spread over the pool: [pages, 1 or Nkv, P] floats.
class PooledScales {
 public:
  std::vector<float> scale, offset;
};

// Views with the axes of `stored`: [B or pages, Nkv, rows, D]. Throws Error. `sequences` and the table of
// `pages` have been checked; `memory` keeps what the views of modes 1 and 3 point to where there are pages.
Scaling scaling_of(const Antiquant& given, const TensorView& stored, Dtype query, std::int64_t batches,
                   const Pages& pages, const std::vector<Sequence>& sequences, PooledScales& memory);

}  // namespace fusion_attention
