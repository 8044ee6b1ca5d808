#include "arch/avx512.h"
#include "arch/verb_table.h"

namespace fusion_attention::arch {

extern const VerbTable verbs_avx512;
constinit const VerbTable verbs_avx512 = verb_table<Avx512, true, 0, Words, RaisedBytes>();

}  // namespace fusion_attention::arch
