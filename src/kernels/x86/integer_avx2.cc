#include "arch/avx2.h"
#include "kernels/integer.h"

namespace fusion_attention::kernels {

using arch::Avx2, arch::Words;

extern const Forward integer_avx2_int8;
const Forward integer_avx2_int8 = kInteger<Avx2, Words>;

}  // namespace fusion_attention::kernels
