#include "arch/scalar.h"
#include "kernels/backward.h"

namespace fusion_attention::kernels {

using arch::Scalar, arch::Fp32, arch::Fp32Bf16;

extern const Backward backward_scalar_fp32, backward_scalar_fp16, backward_scalar_bf16;
const Backward backward_scalar_fp32 = kBackward<Scalar, Fp32, float>;
const Backward backward_scalar_fp16 = kBackward<Scalar, Fp32, f16>;
const Backward backward_scalar_bf16 = kBackward<Scalar, Fp32Bf16, bf16>;

}  // namespace fusion_attention::kernels
