#include "arch/amx.h"
#include "arch/avx512_bf16.h"
#include "kernels/backward.h"

namespace fusion_attention::kernels {

using Amx = arch::Amx<arch::TileUnit, arch::Avx512Bf16>;
using arch::Bf16, arch::Bf16Planes;

extern const Backward backward_amx_fp32, backward_amx_fp16, backward_amx_bf16;
// fp16 is the exact sum of two bf16, fp32 of three to 2^-24: 4 and 6 products at 16 times the rate of FMA.
const Backward backward_amx_fp32 = kBackward<Amx, Bf16Planes<3>, float>;
const Backward backward_amx_fp16 = kBackward<Amx, Bf16Planes<2>, f16>;
const Backward backward_amx_bf16 = kBackward<Amx, Bf16, bf16>;

}  // namespace fusion_attention::kernels
