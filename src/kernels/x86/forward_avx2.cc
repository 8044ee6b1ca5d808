#include "arch/avx2.h"
#include "kernels/forward.h"

namespace fusion_attention::kernels {

using arch::Avx2, arch::Fp32, arch::Fp32Bf16;

extern const Forward forward_avx2_fp32, forward_avx2_fp16, forward_avx2_bf16;
const Forward forward_avx2_fp32 = kForward<Avx2, Fp32, float>;
const Forward forward_avx2_fp16 = kForward<Avx2, Fp32, f16>;
const Forward forward_avx2_bf16 = kForward<Avx2, Fp32Bf16, bf16>;

}  // namespace fusion_attention::kernels
