#include "arch/avx2.h"
#include "kernels/decode.h"

namespace fusion_attention::kernels {

using arch::Avx2;

extern const Forward decode_avx2_fp32, decode_avx2_fp16, decode_avx2_bf16;
const Forward decode_avx2_fp32 = kDecode<Avx2, float>;
const Forward decode_avx2_fp16 = kDecode<Avx2, f16>;
const Forward decode_avx2_bf16 = kDecode<Avx2, bf16>;

}  // namespace fusion_attention::kernels
