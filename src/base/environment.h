// Environment variables. They are read at every use, because tests and callers change them while the process
// runs; a malformed one is ignored with one line on stderr, never silent. Only FUSION_ATTENTION_KERNEL is an
// error when it asks for what there is not (plan/choose.h).
#pragma once

namespace fusion_attention {

const char* environment(const char* variable);  // null when unset or empty

// Says once per process and variable that this value is ignored.
void warn_ignored(const char* variable, const char* value, const char* allowed);

}  // namespace fusion_attention
