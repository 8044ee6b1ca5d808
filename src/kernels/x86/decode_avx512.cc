#include "arch/avx512.h"
#include "kernels/decode.h"

namespace fusion_attention::kernels {

using arch::Avx512;

extern const Forward decode_avx512_fp32, decode_avx512_fp16, decode_avx512_bf16;
const Forward decode_avx512_fp32 = kDecode<Avx512, float>;
const Forward decode_avx512_fp16 = kDecode<Avx512, f16>;
const Forward decode_avx512_bf16 = kDecode<Avx512, bf16>;

}  // namespace fusion_attention::kernels
