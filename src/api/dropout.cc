#include "api/dropout.h"

#include "api/operands.h"
#include "api/refuse.h"
#include "problem/planes.h"

namespace fusion_attention {

void apply_dropout(const FusionAttentionOptions& options, Layout layout, std::int64_t numels,
                   Problem& problem) {
  Dropout& dropout = problem.dropout;
  dropout.keep_prob = options.keep_prob;
  dropout.seed = static_cast<std::uint64_t>(options.seed);
  dropout.offset = static_cast<std::uint64_t>(options.offset);
  const Array& mask = options.dropout_mask;
  if (mask) {
    if (mask.element != Element::uint8)
      refuse("dropout_mask", std::string("dtype ") + name(mask.element), "uint8");
    if (mask.rank > Array::kMaxRank || !is_contiguous(mask))
      refuse("dropout_mask", "strides", "a contiguous tensor");
    const std::int64_t needed = numels / 8 + (numels % 8 != 0 ? 1 : 0);
    if (count(mask) < needed) {
      refuse("dropout_mask", number(count(mask)) + " bytes",
             "a bit for each of " + number(numels) + " scores, " + number(needed) + " bytes or more");
    }
    dropout.bits = static_cast<const std::uint8_t*>(mask.data);
    dropout.bytes = count(mask);
  }
  if (dropout) natural_dropout(problem, layout == Layout::tnd ? Numbering::sequences : Numbering::tensor);
}

}  // namespace fusion_attention
