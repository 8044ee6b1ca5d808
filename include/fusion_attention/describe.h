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

// Which kernel serves a pass and dtype here, and with what numbers.
struct Choice {
  std::string pass;    // "forward", "decode" (few query rows per kv head), "backward", "integer"
  std::string dtype;   // "fp32", "fp16", "bf16", "int8"
  std::string kernel;  // the row of kernels.def
  std::string route;   // how its multiplications are made
  double rate = 0;     // useful flop/s of them on operands in L1, measured on one thread, a millisecond
  std::string roof;    // of machine.h, that they are bound by; empty where there is none
  int products = 1;    // multiplications of that kind per useful one
  // The row of the machine table that serves D + Dv <= 256, and its numbers: query rows of a super-block,
  // keys of a packed chunk, keys between two updates of the output, the most splits that one head is cut
  // into.
  std::string machine;
  int rows = 0, keys = 0, round_trip = 0, splits = 0;
  std::vector<Part> passed_over;  // the other rows of this pass and dtype, and why not them
};

// One Choice for every pass and dtype. Honours FUSION_ATTENTION_KERNEL, FUSION_ATTENTION_MAX_ISA and
// FUSION_ATTENTION_MACHINE; throws Error (value) when FUSION_ATTENTION_KERNEL names what cannot serve here.
std::vector<Choice> choices();

}  // namespace fusion_attention
