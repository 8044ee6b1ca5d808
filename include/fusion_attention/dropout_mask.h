// The bits of Dropout (scores.h), packed: what _npu_dropout_gen_mask of the Ascend documents returns.
#pragma once

#include <cstdint>

namespace fusion_attention {

// Bytes of the mask of that many numbers: whole groups of 128 bits.
std::int64_t dropout_mask_bytes(std::int64_t numbers);

// Bit e % 8 of byte e / 8 is 1 where number e is kept under `keep_prob`, in [0, 1], 0 keeping nothing. Writes
// dropout_mask_bytes(numbers) bytes. Throws Error.
void dropout_mask(std::int64_t numbers, double keep_prob, std::uint64_t seed, std::uint64_t offset,
                  std::uint8_t* bits);

}  // namespace fusion_attention
