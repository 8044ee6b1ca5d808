#include "arch/avx512.h"
#include "kernels/backward.h"

namespace fusion_attention::kernels {

using arch::Avx512, arch::Fp32, arch::Fp32Bf16;

extern const Backward backward_avx512_fp32, backward_avx512_fp16, backward_avx512_bf16;
const Backward backward_avx512_fp32 = kBackward<Avx512, Fp32, float>;
const Backward backward_avx512_fp16 = kBackward<Avx512, Fp32, f16>;
const Backward backward_avx512_bf16 = kBackward<Avx512, Fp32Bf16, bf16>;

}  // namespace fusion_attention::kernels
