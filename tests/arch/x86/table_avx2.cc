#include "arch/avx2.h"
#include "arch/verb_table.h"

namespace fusion_attention::arch {

extern const VerbTable verbs_avx2;
constinit const VerbTable verbs_avx2 = verb_table<Avx2, true, 0, Words>();

}  // namespace fusion_attention::arch
