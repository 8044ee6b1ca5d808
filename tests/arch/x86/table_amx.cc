#include "arch/amx.h"
#include "arch/avx512_bf16.h"
#include "arch/verb_table.h"

namespace fusion_attention::arch {

extern const VerbTable verbs_amx;
constinit const VerbTable verbs_amx = verb_table<Amx<TileUnit, Avx512Bf16>, true, 3, Bytes>();

}  // namespace fusion_attention::arch
