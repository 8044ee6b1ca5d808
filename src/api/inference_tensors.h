// What must hold of the memory of every tensor of an inference call before anything of it is read.
#pragma once

#include "api/inference_spelling.h"

namespace fusion_attention {

// Throws Error for the first tensor whose memory is not aligned to its elements. Gives the caller's name of
// the first that has elements but no memory, with which a call can be checked and not computed; or null.
const char* check_tensors(const Spelling& spelling, const Array& query, const Array& key, const Array& value,
                          const InferenceOptions& options);

}  // namespace fusion_attention
