#include "arch/avx2.h"
#include "kernels/backward.h"

namespace fusion_attention::kernels {

using arch::Avx2, arch::Fp32, arch::Fp32Bf16;

extern const Backward backward_avx2_fp32, backward_avx2_fp16, backward_avx2_bf16;
const Backward backward_avx2_fp32 = kBackward<Avx2, Fp32, float>;
const Backward backward_avx2_fp16 = kBackward<Avx2, Fp32, f16>;
const Backward backward_avx2_bf16 = kBackward<Avx2, Fp32Bf16, bf16>;

}  // namespace fusion_attention::kernels
