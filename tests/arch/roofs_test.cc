#include <gtest/gtest.h>

#include <cstdio>
#include <set>
#include <string>

#include "arch/cpu.h"
#include "fusion_attention/machine.h"

namespace fusion_attention {
namespace {

// Between a CPU of 1990 and one nobody has; the point is that each loop runs, and counts what it says it
// counts.
TEST(Roofs, EachRunsAndIsPlausible) {
  std::set<std::string> names;
  std::printf("[ roof     ] %s\n", arch::cpu_name().c_str());
  for (const Roof& roof : roofs()) {
    const double rate = roof.measure(0.01);
    std::printf("[ roof     ] %-10s %8.1f G%s\n", roof.name, rate / 1e9, roof.unit);
    EXPECT_GT(rate, 1e7) << roof.name;
    EXPECT_LT(rate, 1e14) << roof.name;
    EXPECT_TRUE(names.insert(roof.name).second) << "twice: " << roof.name;
  }
  EXPECT_TRUE(names.contains("read"));
  EXPECT_EQ(names.contains("fma"), arch::detected(arch::Isa::avx2).usable);
}

}  // namespace
}  // namespace fusion_attention
