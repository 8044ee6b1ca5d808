#include "arch/amx_emulated.h"
#include "kernels/decode.h"

namespace fusion_attention::kernels {

using arch::AmxEmulated;

extern const Forward decode_amx_emulated_fp32, decode_amx_emulated_fp16, decode_amx_emulated_bf16;
const Forward decode_amx_emulated_fp32 = kDecode<AmxEmulated, float>;
const Forward decode_amx_emulated_fp16 = kDecode<AmxEmulated, f16>;
const Forward decode_amx_emulated_bf16 = kDecode<AmxEmulated, bf16>;

}  // namespace fusion_attention::kernels
