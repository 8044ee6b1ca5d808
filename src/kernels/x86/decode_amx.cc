#include "arch/amx.h"
#include "arch/avx512_bf16.h"
#include "kernels/decode.h"

namespace fusion_attention::kernels {

using Amx = arch::Amx<arch::TileUnit, arch::Avx512Bf16>;

extern const Forward decode_amx_fp32, decode_amx_fp16, decode_amx_bf16;
const Forward decode_amx_fp32 = kDecode<Amx, float>;
const Forward decode_amx_fp16 = kDecode<Amx, f16>;
const Forward decode_amx_bf16 = kDecode<Amx, bf16>;

}  // namespace fusion_attention::kernels
