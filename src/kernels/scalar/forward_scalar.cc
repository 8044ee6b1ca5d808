#include "arch/scalar.h"
#include "kernels/forward.h"

namespace fusion_attention::kernels {

using arch::Scalar, arch::Fp32, arch::Fp32Bf16;

extern const Forward forward_scalar_fp32, forward_scalar_fp16, forward_scalar_bf16;
const Forward forward_scalar_fp32 = kForward<Scalar, Fp32, float>;
const Forward forward_scalar_fp16 = kForward<Scalar, Fp32, f16>;
const Forward forward_scalar_bf16 = kForward<Scalar, Fp32Bf16, bf16>;

}  // namespace fusion_attention::kernels
