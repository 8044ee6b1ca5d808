// What this build holds and what this machine lets it use, for people and for bug reports.
#pragma once

#include <string>
#include <vector>

namespace fusion_attention {

struct Part {
  std::string name;
  std::string refused;  // why it cannot be used here and now; empty when it can
};

std::string cpu_name();
std::vector<Part> instruction_sets();  // "scalar", "avx2", …: honours FUSION_ATTENTION_MAX_ISA
std::vector<Part> kernels_built();     // the rows of kernels.def in this build

}  // namespace fusion_attention
