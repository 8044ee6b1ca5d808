#include "arch/scalar.h"
#include "kernels/integer.h"

namespace fusion_attention::kernels {

using arch::Scalar, arch::Bytes;

extern const Forward integer_scalar_int8;
const Forward integer_scalar_int8 = kInteger<Scalar, Bytes>;

}  // namespace fusion_attention::kernels
