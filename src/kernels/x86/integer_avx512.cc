#include "arch/avx512.h"
#include "arch/cpu.h"
#include "kernels/integer.h"

namespace fusion_attention::kernels {

using arch::Avx512, arch::RaisedBytes, arch::Words;

namespace {

// VPDPBUSD where there is one, else VPMADDWD on widened values.
const Forward& kernel() {
  return arch::has_vnni() ? kInteger<Avx512, RaisedBytes> : kInteger<Avx512, Words>;
}

constexpr Forward kEither{
    .scratch_bytes = [](const Shape& shape,
                        const Blocking& blocking) { return kernel().scratch_bytes(shape, blocking); },
    .run = [](const ForwardArgs& args, const ForwardTask& task,
              std::byte* scratch) { kernel().run(args, task, scratch); },
    .merge = nullptr,
    .rate = [] { return kernel().rate(); },
};

}  // namespace

// The BF16 instructions have nothing to add: one kernel under both names.
extern const Forward integer_avx512_int8, integer_avx512_bf16_int8;
const Forward integer_avx512_int8 = kEither;
const Forward integer_avx512_bf16_int8 = kEither;

}  // namespace fusion_attention::kernels
