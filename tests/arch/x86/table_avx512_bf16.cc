#include "arch/avx512_bf16.h"
#include "arch/verb_table.h"

namespace fusion_attention::arch {

extern const VerbTable verbs_avx512_bf16;
constinit const VerbTable verbs_avx512_bf16 = verb_table<Avx512Bf16, true, 1>();

}  // namespace fusion_attention::arch
