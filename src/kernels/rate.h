// What the multiplication of an arch does on this machine: measured, because a CPUID bit does not tell.
#pragma once

#include <chrono>

#include "arch/tile.h"

namespace fusion_attention::kernels {

// Useful flops per second of block() on operands in L1: 128 elements of depth. The best of several slices of
// a few µs, so that one interruption does not choose the route.
template <class Arch, class Format>
double block_rate() {
  using clock = std::chrono::steady_clock;
  constexpr int kDepth = 128, kBlocks = 8, kSlices = 12;
  constexpr int kGroups = kDepth / arch::kGroupElements<Format>;
  alignas(64) static std::byte operands[2][Format::kPlanes * kGroups * arch::kGroupBytes] = {};
  alignas(64) thread_local float c[arch::kBlockFloats];
  const std::size_t plane = kGroups * arch::kGroupBytes;
  const arch::Operands o{operands[0], operands[1], plane, plane, kGroups * arch::kGroupUnits};
  double best = 0;
  Arch::begin();
  for (int slice = 0; slice < kSlices; ++slice) {
    const auto start = clock::now();
    for (int i = 0; i < kBlocks; ++i) Arch::template block<Format, false, 2>(o, c, arch::NoHook{});
    const double seconds = std::chrono::duration<double>(clock::now() - start).count();
    const double rate = kBlocks * 2.0 * kDepth * arch::kBlock * arch::kBlock / (seconds + 1e-9);
    if (rate > best) best = rate;
  }
  Arch::end();
  return best;
}

}  // namespace fusion_attention::kernels
