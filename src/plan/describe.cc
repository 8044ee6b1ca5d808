#include "fusion_attention/describe.h"

#include "arch/cpu.h"
#include "kernels/kernels.h"
#include "plan/choose.h"

namespace fusion_attention {

std::string cpu_name() {
  return arch::cpu_name();
}

std::vector<Part> instruction_sets() {
  std::vector<Part> parts;
  for (const arch::Isa isa : arch::kIsas) parts.push_back({arch::name(isa), arch::status(isa).reason});
  return parts;
}

std::vector<Part> kernels_built() {
  std::vector<Part> parts;
  for (const kernels::Row& row : kernels::rows()) parts.push_back({row.name, plan::refused(row)});
  return parts;
}

}  // namespace fusion_attention
