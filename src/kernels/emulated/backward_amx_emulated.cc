#include "arch/amx_emulated.h"
#include "kernels/backward.h"

namespace fusion_attention::kernels {

using arch::AmxEmulated, arch::Bf16, arch::Bf16Planes;

extern const Backward backward_amx_emulated_fp32, backward_amx_emulated_fp16, backward_amx_emulated_bf16;
// The sources of amx over plain C++ tiles.
const Backward backward_amx_emulated_fp32 = kBackward<AmxEmulated, Bf16Planes<3>, float>;
const Backward backward_amx_emulated_fp16 = kBackward<AmxEmulated, Bf16Planes<2>, f16>;
const Backward backward_amx_emulated_bf16 = kBackward<AmxEmulated, Bf16, bf16>;

}  // namespace fusion_attention::kernels
