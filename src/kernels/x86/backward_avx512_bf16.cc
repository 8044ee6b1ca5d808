#include "arch/avx512_bf16.h"
#include "kernels/backward.h"

namespace fusion_attention::kernels {

using arch::Avx512Bf16, arch::Bf16, arch::Fp32;

extern const Backward backward_avx512_bf16_fp32, backward_avx512_bf16_fp16, backward_avx512_bf16_bf16;
// bf16 by VDPBF16PS; the others by FMA: splitting them into bf16 would take 1.25 to 3 times as long.
const Backward backward_avx512_bf16_fp32 = kBackward<Avx512Bf16, Fp32, float>;
const Backward backward_avx512_bf16_fp16 = kBackward<Avx512Bf16, Fp32, f16>;
const Backward backward_avx512_bf16_bf16 = kBackward<Avx512Bf16, Bf16, bf16>;

}  // namespace fusion_attention::kernels
