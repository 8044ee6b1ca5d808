// What this machine can do at best: the loops that a kernel's speed is compared with.
#pragma once

#include <vector>

namespace fusion_attention {

// One thread doing one thing as fast as the machine can, with no data to wait for:
//
//   "fma"        flop/s   the widest fp32 multiply-add this CPU offers
//   "fma_ymm"    flop/s   the same in 256-bit registers
//   "vdpbf16ps"  flop/s   products of bf16 pairs in 512-bit registers
//   "amx"        flop/s   bf16 tiles with their loads and stores from L1, 128 deep: multiply 16 times, store
//   "read"       byte/s   memory read through a buffer of 256 MiB
struct Roof {
  const char* name;
  const char* unit;

  // Runs on the calling thread for about `seconds`; the rate of its median slice of some 10 µs (for "read",
  // of 4 MiB). "read" prepares its buffer first, which takes longer than the measurement.
  double (*measure)(double seconds);
};

// Those that this build knows and this CPU offers.
std::vector<Roof> roofs();

}  // namespace fusion_attention
