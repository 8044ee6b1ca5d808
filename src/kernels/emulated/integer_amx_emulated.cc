#include "arch/amx_emulated.h"
#include "kernels/integer.h"

namespace fusion_attention::kernels {

using arch::AmxEmulated, arch::Bytes;

extern const Forward integer_amx_emulated_int8;
const Forward integer_amx_emulated_int8 = kInteger<AmxEmulated, Bytes>;

}  // namespace fusion_attention::kernels
