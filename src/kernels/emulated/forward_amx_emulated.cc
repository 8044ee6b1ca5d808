#include "arch/amx_emulated.h"
#include "kernels/forward.h"

namespace fusion_attention::kernels {

using arch::AmxEmulated, arch::Bf16, arch::Bf16Planes;

extern const Forward forward_amx_emulated_fp32, forward_amx_emulated_fp16, forward_amx_emulated_bf16;
// The sources of amx over plain C++ tiles.
const Forward forward_amx_emulated_fp32 = kForward<AmxEmulated, Bf16Planes<3>, float>;
const Forward forward_amx_emulated_fp16 = kForward<AmxEmulated, Bf16Planes<2>, f16>;
const Forward forward_amx_emulated_bf16 = kForward<AmxEmulated, Bf16, bf16>;

}  // namespace fusion_attention::kernels
