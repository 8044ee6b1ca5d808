#include "arch/avx512.h"
#include "kernels/forward.h"

namespace fusion_attention::kernels {

using arch::Avx512, arch::Fp32, arch::Fp32Bf16;

extern const Forward forward_avx512_fp32, forward_avx512_fp16, forward_avx512_bf16;
const Forward forward_avx512_fp32 = kForward<Avx512, Fp32, float>;
const Forward forward_avx512_fp16 = kForward<Avx512, Fp32, f16>;
const Forward forward_avx512_bf16 = kForward<Avx512, Fp32Bf16, bf16>;

}  // namespace fusion_attention::kernels
