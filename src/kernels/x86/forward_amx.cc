#include "arch/amx.h"
#include "arch/avx512_bf16.h"
#include "kernels/forward.h"

namespace fusion_attention::kernels {

using Amx = arch::Amx<arch::TileUnit, arch::Avx512Bf16>;
using arch::Bf16, arch::Bf16Planes;

extern const Forward forward_amx_fp32, forward_amx_fp16, forward_amx_bf16;
// fp16 is the exact sum of two bf16, fp32 of three to 2^-24: 4 and 6 products at 16 times the rate of FMA.
const Forward forward_amx_fp32 = kForward<Amx, Bf16Planes<3>, float>;
const Forward forward_amx_fp16 = kForward<Amx, Bf16Planes<2>, f16>;
const Forward forward_amx_bf16 = kForward<Amx, Bf16, bf16>;

}  // namespace fusion_attention::kernels
