// What this CPU and this operating system let us execute, and why not where they do not.
#pragma once

#include <cstdint>
#include <string>

namespace fusion_attention::arch {

enum class Isa : std::uint8_t { scalar, avx2, avx512, avx512_bf16, amx };
inline constexpr Isa kIsas[] = {Isa::scalar, Isa::avx2, Isa::avx512, Isa::avx512_bf16, Isa::amx};

const char* name(Isa isa);  // "scalar", "avx2", ...

struct IsaStatus {
  bool usable = false;
  std::string reason;  // why not; empty when usable
};

// CPUID, the state the operating system saves, and for AMX a permission that was asked for and granted. Found
// once per process. Honours FUSION_ATTENTION_ASSUME_ISA=<name>: an instruction set that CPUID hides is used
// if it executes (for tests on machines that mask bits).
const IsaStatus& detected(Isa isa);

// detected(), below the cap of FUSION_ATTENTION_MAX_ISA=<name>, which is read at every call.
IsaStatus status(Isa isa);

// Whether one instruction of it runs here, tried in a child process. Slow; for tests and diagnosis.
bool executes(Isa isa);

// VPDPBUSD, which AVX-512 machines from Cascade Lake on have.
bool has_vnni();

std::string cpu_name();

}  // namespace fusion_attention::arch
