#include "arch/avx512_bf16.h"
#include "kernels/decode.h"

namespace fusion_attention::kernels {

using arch::Avx512Bf16;

extern const Forward decode_avx512_bf16_fp32, decode_avx512_bf16_fp16, decode_avx512_bf16_bf16;
const Forward decode_avx512_bf16_fp32 = kDecode<Avx512Bf16, float>;
const Forward decode_avx512_bf16_fp16 = kDecode<Avx512Bf16, f16>;
const Forward decode_avx512_bf16_bf16 = kDecode<Avx512Bf16, bf16>;

}  // namespace fusion_attention::kernels
