// The arches of the kernel list, forced one after another.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "arch/cpu.h"
#include "kernels/kernels.h"

namespace fusion_attention::testing {

inline constexpr const char* kNotAtAll = "not at all";

// The arch of every kernel row, once.
inline std::vector<std::string> arches() {
  std::vector<std::string> all;
  for (const auto& row : kernels::rows())
    if (std::find(all.begin(), all.end(), row.arch) == all.end()) all.push_back(row.arch);
  return all;
}

// Makes the library use one arch, and says how it runs here. An instruction set that CPUID hides but that
// executes is used all the same.
inline std::string force(const std::string& name) {
  setenv("FUSION_ATTENTION_ASSUME_ISA", "avx512_bf16", 0);
  setenv("FUSION_ATTENTION_KERNEL", name.c_str(), 1);
  for (const arch::Isa isa : arch::kIsas) {
    if (name != arch::name(isa)) continue;
    return arch::detected(isa).usable ? "natively" : kNotAtAll;
  }
  return "over emulated tiles";
}

// Split operands turn a visible infinity into NaN (0·inf of a plane).
inline bool has_infinities(const std::string& arch) {
  return arch.rfind("amx", 0) != 0;
}

}  // namespace fusion_attention::testing
