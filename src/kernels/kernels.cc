#include "kernels/kernels.h"

namespace fusion_attention::kernels {

using forward_row = Forward;
using decode_row = Forward;
using backward_row = Backward;
using integer_row = Forward;

#define FA_ROW(algorithm, arch, element, dtype) extern const algorithm##_row algorithm##_##arch##_##element;
#include "kernels/kernels.def"

namespace {

constexpr Row row(const char* name, Algorithm algorithm, const char* arch, Dtype dtype,
                  const Forward* kernel) {
  return {name, algorithm, arch, dtype, kernel, nullptr};
}
constexpr Row row(const char* name, Algorithm algorithm, const char* arch, Dtype dtype,
                  const Backward* kernel) {
  return {name, algorithm, arch, dtype, nullptr, kernel};
}

constexpr Row kRows[] = {
#define FA_ROW(algorithm, arch, element, dtype)                                     \
  row(#algorithm "_" #arch "_" #element, Algorithm::algorithm, #arch, Dtype::dtype, \
      &algorithm##_##arch##_##element),
#include "kernels/kernels.def"
};

}  // namespace

RowList rows() {
  return {kRows, kRows + sizeof(kRows) / sizeof(kRows[0])};
}

}  // namespace fusion_attention::kernels
