// Everything an ISA file uses must be inlined or carry an arch tag in its name: a weak symbol compiled
// with -mavx512f could otherwise be the copy the linker hands to the baseline code.
#pragma once

#define FA_INLINE [[gnu::always_inline]] inline
