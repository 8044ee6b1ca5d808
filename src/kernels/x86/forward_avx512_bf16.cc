#include "arch/avx512_bf16.h"
#include "kernels/forward.h"

namespace fusion_attention::kernels {

using arch::Avx512Bf16, arch::Bf16, arch::Fp32;

extern const Forward forward_avx512_bf16_fp32, forward_avx512_bf16_fp16, forward_avx512_bf16_bf16;
// bf16 by VDPBF16PS; the others by FMA: splitting them into bf16 would take 1.25 to 3 times as long.
const Forward forward_avx512_bf16_fp32 = kForward<Avx512Bf16, Fp32, float>;
const Forward forward_avx512_bf16_fp16 = kForward<Avx512Bf16, Fp32, f16>;
const Forward forward_avx512_bf16_bf16 = kForward<Avx512Bf16, Bf16, bf16>;

}  // namespace fusion_attention::kernels
