// Strict mode, for interfaces that have read their call into a Problem.
#pragma once

#include "api/limits.h"

namespace fusion_attention {

// Throws Error for the first row of the table that refuses the call.
void refuse_undocumented(Interface interface, const LimitedCall& call);

}  // namespace fusion_attention
