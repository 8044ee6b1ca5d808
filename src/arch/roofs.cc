#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "arch/amx.h"
#include "arch/cpu.h"
#include "arch/scalar.h"
#include "fusion_attention/machine.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fusion_attention {
namespace {

// Calls slice(), which does `work` in some tens of microseconds or more, until the time is over. The median
// slice: another thread's turns on this core are not part of a roof.
template <class Slice>
double rate(double seconds, double work, Slice slice) {
  using clock = std::chrono::steady_clock;
  const auto since = [](clock::time_point t) {
    return std::chrono::duration<double>(clock::now() - t).count();
  };
  std::vector<double> slices;
  const auto start = clock::now();
  do {
    const auto begin = clock::now();
    slice();
    slices.push_back(since(begin));
  } while (since(start) < seconds);
  const auto middle = slices.begin() + static_cast<std::ptrdiff_t>(slices.size() / 2);
  std::nth_element(slices.begin(), middle, slices.end());
  return work / *middle;
}

#if defined(__x86_64__)

// `instruction` on kIndependent accumulators, kTurns times: more chains than latency × throughput (4 to 6 ×
// 2), fewer than there are registers. As text, so that nothing is folded, moved or left out.
constexpr int kTurns = 8000, kIndependent = 12;
#define FA_TURNS(instruction, reg)                                                                     \
  int turns = kTurns;                                                                                  \
  asm volatile(                                                                                        \
      "vpxor %%xmm12, %%xmm12, %%xmm12\n"                                                              \
      ".irp i, 0,1,2,3,4,5,6,7,8,9,10,11\n"                                                            \
      "vpxor %%xmm\\i, %%xmm\\i, %%xmm\\i\n"                                                           \
      ".endr\n"                                                                                        \
      "1:\n"                                                                                           \
      ".irp i, 0,1,2,3,4,5,6,7,8,9,10,11\n" instruction " %%" reg "12, %%" reg "12, %%" reg            \
      "\\i\n"                                                                                          \
      ".endr\n"                                                                                        \
      "decl %0\n"                                                                                      \
      "jnz 1b\n"                                                                                       \
      "vzeroupper\n"                                                                                   \
      : "+r"(turns)                                                                                    \
      :                                                                                                \
      : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", \
        "xmm11", "xmm12")

double fma_ymm(double seconds) {
  return rate(seconds, kTurns * kIndependent * 8 * 2.0, [] { FA_TURNS("vfmadd231ps", "ymm"); });
}
double fma_zmm(double seconds) {
  return rate(seconds, kTurns * kIndependent * 16 * 2.0, [] { FA_TURNS("vfmadd231ps", "zmm"); });
}
#if FA_HAVE_AVX512_BF16
double vdpbf16ps(double seconds) {
  return rate(seconds, kTurns * kIndependent * 16 * 4.0, [] { FA_TURNS("vdpbf16ps", "zmm"); });
}
#endif
#undef FA_TURNS

#if FA_HAVE_AMX
// Q·Kᵀ of 32 × 32 × 128 and P·V of the same, each 16 multiplications and 4 stores.
double amx_skeleton(double seconds) {
  using arch::Bf16;
  using Tiles = arch::Amx<arch::TileUnit, arch::Scalar>;
  constexpr int kUnits = 64, kRounds = 100;
  constexpr std::size_t kBytes = kUnits / arch::kGroupUnits * arch::kGroupBytes;
  alignas(64) static const std::byte operands[4][kBytes] = {};
  alignas(64) float scores[arch::kBlockFloats], out[arch::kBlockFloats];
  const arch::Operands query_key{operands[0], operands[1], 0, 0, kUnits};
  const arch::Operands probability_value{operands[2], operands[3], 0, 0, kUnits};
  Tiles::begin();
  const double r = rate(seconds, kRounds * 2 * 4.0 * kUnits * arch::kBlock * arch::kBlock, [&] {
    for (int i = 0; i < kRounds; ++i) {
      Tiles::block<Bf16, false, 2>(query_key, scores, arch::NoHook{});
      Tiles::block<Bf16, false, 2>(probability_value, out, arch::NoHook{});
    }
  });
  Tiles::end();
  return r;
}
#endif

#endif

double read(double seconds) {
  constexpr std::size_t kBytes = std::size_t{256} << 20, kHugePage = std::size_t{2} << 20,
                        kWords = kBytes / 8;
  constexpr std::size_t kSliceWords = kWords / 64;
  const std::unique_ptr<std::uint64_t[], void (*)(void*)> buffer(
      static_cast<std::uint64_t*>(std::aligned_alloc(kHugePage, kBytes)), std::free);
  if (buffer == nullptr) return 0;
#if defined(__linux__)
  madvise(buffer.get(), kBytes, MADV_HUGEPAGE);
#endif
  for (std::size_t i = 0; i < kWords; ++i) buffer[i] = i;
  std::size_t next = 0;
  return rate(seconds, kSliceWords * 8.0, [&] {
    constexpr int kLineWords = 8;
    std::uint64_t sums[kLineWords] = {};
    for (std::size_t i = next; i < next + kSliceWords; i += kLineWords)
      for (int j = 0; j < kLineWords; ++j) sums[j] += buffer[i + j];
    for (const std::uint64_t& sum : sums) asm volatile("" : : "m"(sum));
    next = (next + kSliceWords) % kWords;
  });
}

}  // namespace

std::vector<Roof> roofs() {
  std::vector<Roof> all;
#if defined(__x86_64__)
  using arch::Isa;
  const auto usable = [](Isa isa) { return arch::detected(isa).usable; };
  if (usable(Isa::avx2)) {
    all.push_back({"fma", "flop/s", usable(Isa::avx512) ? fma_zmm : fma_ymm});
    all.push_back({"fma_ymm", "flop/s", fma_ymm});
  }
#if FA_HAVE_AVX512_BF16
  if (usable(Isa::avx512_bf16)) all.push_back({"vdpbf16ps", "flop/s", vdpbf16ps});
#endif
#if FA_HAVE_AMX
  if (usable(Isa::amx)) all.push_back({"amx", "flop/s", amx_skeleton});
#endif
#endif
  all.push_back({"read", "byte/s", read});
  return all;
}

}  // namespace fusion_attention
