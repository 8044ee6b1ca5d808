#include "arch/amx.h"
#include "arch/avx512_bf16.h"
#include "kernels/integer.h"

namespace fusion_attention::kernels {

using Amx = arch::Amx<arch::TileUnit, arch::Avx512Bf16>;

extern const Forward integer_amx_int8;
const Forward integer_amx_int8 = kInteger<Amx, arch::Bytes>;

}  // namespace fusion_attention::kernels
