#include "arch/scalar.h"
#include "kernels/decode.h"

namespace fusion_attention::kernels {

using arch::Scalar;

extern const Forward decode_scalar_fp32, decode_scalar_fp16, decode_scalar_bf16;
const Forward decode_scalar_fp32 = kDecode<Scalar, float>;
const Forward decode_scalar_fp16 = kDecode<Scalar, f16>;
const Forward decode_scalar_bf16 = kDecode<Scalar, bf16>;

}  // namespace fusion_attention::kernels
