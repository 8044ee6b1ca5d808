// What the multiplication of an arch does on this machine: measured, because a CPUID bit does not tell.
#pragma once

#include <chrono>

#include "arch/tile.h"

namespace fusion_attention::kernels {

// Useful flops per second of block() on operands in L1, 128 elements deep: the best of the slices that fit
// into some 20 µs, and of at least three, so that one interruption does not choose the route.
template <class Arch, class Format>
double block_rate() {
  using clock = std::chrono::steady_clock;
  constexpr int kDepth = 128, kBlocks = 2, kSlices = 3;
  constexpr double kSeconds = 20e-6;
  constexpr int kGroups = kDepth / arch::kGroupElements<Format>;
  constexpr std::size_t kPlane = kGroups * arch::kGroupBytes;
  alignas(64) static std::byte operands[2][Format::kPlanes * kPlane] = {};
  alignas(64) thread_local float c[arch::kBlockFloats];
  const arch::Operands o{operands[0], operands[1], kPlane, kPlane, kGroups * arch::kGroupUnits};
  double best = 0, total = 0;
  Arch::begin();
  for (int slice = 0; slice < kSlices || total < kSeconds; ++slice) {
    const auto start = clock::now();
    for (int i = 0; i < kBlocks; ++i) Arch::template block<Format, false, 2>(o, c, arch::NoHook{});
    const double seconds = std::chrono::duration<double>(clock::now() - start).count() + 1e-9;
    const double rate = kBlocks * 2.0 * kDepth * arch::kBlock * arch::kBlock / seconds;
    if (rate > best) best = rate;
    total += seconds;
  }
  Arch::end();
  return best;
}

}  // namespace fusion_attention::kernels
