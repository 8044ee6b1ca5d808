#include "arch/cpu.h"

#include <array>
#include <cstring>
#include <fstream>
#include <mutex>

#include "base/environment.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#endif

namespace fusion_attention::arch {

const char* name(Isa isa) {
  constexpr const char* kNames[] = {"scalar", "avx2", "avx512", "avx512_bf16", "amx"};
  return kNames[static_cast<int>(isa)];
}

namespace {

// The instruction set that a variable names; null when it names none, which is said once.
const Isa* named_by(const char* variable) {
  const char* word = environment(variable);
  if (!word) return nullptr;
  for (const Isa& isa : kIsas)
    if (std::strcmp(word, name(isa)) == 0) return &isa;
  warn_ignored(variable, word, "scalar, avx2, avx512, avx512_bf16 or amx");
  return nullptr;
}

#if defined(__x86_64__)

struct Registers {
  unsigned a = 0, b = 0, c = 0, d = 0;
};
Registers cpuid(unsigned leaf, unsigned subleaf = 0) {
  Registers r;
  __get_cpuid_count(leaf, subleaf, &r.a, &r.b, &r.c, &r.d);
  return r;
}
bool bit(unsigned word, int index) {
  return word >> index & 1u;
}

// XCR0: the register state that the operating system saves and restores.
std::uint64_t saved_state() {
  if (!bit(cpuid(1).c, 27)) return 0;
  unsigned low = 0, high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return std::uint64_t{high} << 32 | low;
}
constexpr std::uint64_t kAvxState = 0x6, kAvx512State = 0xe6, kTileState = 0x60000;

// Linux hands out the tile registers on request only; it refuses under a small alternate signal stack or a
// filter.
bool request_tiles() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

IsaStatus detect(Isa isa) {
  const auto missing = [](const char* what) { return IsaStatus{false, what}; };
  const Registers one = cpuid(1), seven = cpuid(7), seven_one = cpuid(7, 1);
  const std::uint64_t state = saved_state();
  switch (isa) {
    case Isa::scalar:
      break;
    case Isa::avx2:
      if (!bit(seven.b, 5) || !bit(one.c, 12) || !bit(one.c, 29))
        return missing("CPUID lacks AVX2, FMA or F16C");
      if ((state & kAvxState) != kAvxState)
        return missing("the operating system does not save ymm registers");
      break;
    case Isa::avx512:
      if (!bit(seven.b, 16) || !bit(seven.b, 17) || !bit(seven.b, 30) || !bit(seven.b, 31))
        return missing("CPUID lacks AVX-512 F, DQ, BW or VL");
      if ((state & kAvx512State) != kAvx512State)
        return missing("the operating system does not save zmm registers");
      break;
    case Isa::avx512_bf16:
      if (!detected(Isa::avx512).usable) return missing("needs avx512");
      if (!bit(seven_one.a, 5)) return missing("CPUID lacks AVX512_BF16");
      break;
    case Isa::amx:
      if (!detected(Isa::avx512_bf16).usable) return missing("needs avx512_bf16");
      if (!bit(seven.d, 24) || !bit(seven.d, 22) || !bit(seven.d, 25))
        return missing("CPUID lacks AMX_TILE, AMX_BF16 or AMX_INT8");
      if ((state & kTileState) != kTileState)
        return missing("the operating system does not save tile registers");
      if (!request_tiles()) return missing("the operating system refused the tile registers");
      break;
  }
  return {true, ""};
}

void execute_one(Isa isa) {
  switch (isa) {
    case Isa::scalar:
      break;
    case Isa::avx2:
      asm volatile("vpaddd %%ymm0, %%ymm0, %%ymm0\n\tvfmadd231ps %%ymm0, %%ymm0, %%ymm0\n\tvzeroupper" ::
                       : "xmm0");
      break;
    case Isa::avx512:
      asm volatile("vpaddd %%zmm0, %%zmm0, %%zmm0\n\tvzeroupper" ::: "xmm0");
      break;
    case Isa::avx512_bf16:
      asm volatile(
          "vdpbf16ps %%zmm0, %%zmm0, %%zmm0\n\tvcvtne2ps2bf16 %%zmm0, %%zmm0, %%zmm0\n\tvzeroupper" ::
              : "xmm0");
      break;
    case Isa::amx:
      request_tiles();
      asm volatile("tilerelease");
      break;
  }
}

#else

IsaStatus detect(Isa isa) {
  if (isa == Isa::scalar) return {true, ""};
  return {false, "not an x86-64 machine"};
}

#endif

}  // namespace

bool executes(Isa isa) {
#if defined(__x86_64__)
  const pid_t child = fork();
  if (child < 0) return false;
  if (child == 0) {
    // Ends quietly: no handler of the host's, no core file.
    const rlimit none{0, 0};
    setrlimit(RLIMIT_CORE, &none);
    signal(SIGILL, SIG_DFL);
    execute_one(isa);
    _exit(0);
  }
  int result = 0;
  return waitpid(child, &result, 0) == child && WIFEXITED(result) && WEXITSTATUS(result) == 0;
#else
  return isa == Isa::scalar;
#endif
}

bool has_vnni() {
#if defined(__x86_64__)
  static const bool has = bit(cpuid(7).c, 11);
  return has;
#else
  return false;
#endif
}

const IsaStatus& detected(Isa isa) {
  static std::array<IsaStatus, std::size(kIsas)> found;
  static std::array<std::once_flag, std::size(kIsas)> once;
  const auto index = static_cast<std::size_t>(isa);
  std::call_once(once[index], [&] {
    found[index] = detect(isa);
    if (found[index].usable) return;
    const Isa* assumed = named_by("FUSION_ATTENTION_ASSUME_ISA");
    if (assumed && *assumed == isa && executes(isa)) found[index] = {true, ""};
  });
  return found[index];
}

IsaStatus status(Isa isa) {
  if (const Isa* cap = named_by("FUSION_ATTENTION_MAX_ISA"); cap && isa > *cap)
    return {false, std::string("FUSION_ATTENTION_MAX_ISA=") + name(*cap)};
  return detected(isa);
}

std::string cpu_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  return "unknown CPU";
}

}  // namespace fusion_attention::arch
