#include "arch/cpu.h"

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdlib>
#include <fstream>
#include <sstream>

namespace fusion_attention::arch {
namespace {

class Cpu : public ::testing::Test {
 protected:
  void TearDown() override { unsetenv("FUSION_ATTENTION_MAX_ISA"); }
};

TEST_F(Cpu, ScalarIsAlwaysThereAndEveryRefusalHasItsReason) {
  EXPECT_TRUE(detected(Isa::scalar).usable);
  for (const Isa isa : kIsas) {
    const IsaStatus& found = detected(isa);
    EXPECT_EQ(found.usable, found.reason.empty()) << name(isa);
    std::printf("note: %s %s\n", name(isa), found.usable ? "usable" : found.reason.c_str());
  }
}

TEST_F(Cpu, WhatIsUsableExecutes) {
  for (const Isa isa : kIsas) EXPECT_TRUE(!detected(isa).usable || executes(isa)) << name(isa);
}

// The kernel's own reading of CPUID, an independent witness.
TEST_F(Cpu, AgreesWithTheOperatingSystem) {
  std::ifstream file("/proc/cpuinfo");
  std::string flags;
  for (std::string line; flags.empty() && std::getline(file, line);)
    if (line.rfind("flags", 0) == 0) flags = line + " ";
  if (flags.empty()) GTEST_SKIP() << "no flags in /proc/cpuinfo";
  const auto has = [&](const char* words) {
    std::istringstream each(words);
    for (std::string word; each >> word;)
      if (flags.find(" " + word + " ") == std::string::npos) return false;
    return true;
  };
  EXPECT_EQ(detected(Isa::avx2).usable, has("avx2 fma f16c"));
  EXPECT_EQ(detected(Isa::avx512).usable, has("avx512f avx512dq avx512bw avx512vl"));
  EXPECT_EQ(detected(Isa::avx512_bf16).usable, has("avx512f avx512dq avx512bw avx512vl avx512_bf16"));
  EXPECT_TRUE(!detected(Isa::amx).usable || has("amx_tile amx_bf16"));
}

TEST_F(Cpu, TheCapActsAtOnceAndSaysSo) {
  setenv("FUSION_ATTENTION_MAX_ISA", "scalar", 1);
  EXPECT_TRUE(status(Isa::scalar).usable);
  EXPECT_FALSE(status(Isa::avx2).usable);
  EXPECT_EQ(status(Isa::avx2).reason, "FUSION_ATTENTION_MAX_ISA=scalar");
  setenv("FUSION_ATTENTION_MAX_ISA", "avx2", 1);
  EXPECT_EQ(status(Isa::avx2).usable, detected(Isa::avx2).usable);
  EXPECT_FALSE(status(Isa::amx).usable);
  unsetenv("FUSION_ATTENTION_MAX_ISA");
  for (const Isa isa : kIsas) EXPECT_EQ(status(isa).usable, detected(isa).usable) << name(isa);
}

TEST_F(Cpu, AMalformedCapIsIgnoredWithOneWarning) {
  ::testing::internal::CaptureStderr();
  setenv("FUSION_ATTENTION_MAX_ISA", "avx3", 1);
  for (const Isa isa : kIsas) EXPECT_EQ(status(isa).usable, detected(isa).usable);
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(said,
            "fusion_attention: FUSION_ATTENTION_MAX_ISA=avx3 is ignored: allowed is scalar, avx2, avx512, "
            "avx512_bf16 or amx\n");
}

// Detection happens once per process: the assumption is made in a fresh one, which must not have asked
// before.
TEST_F(Cpu, AnAssumedInstructionSetIsUsedExactlyIfItExecutes) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  for (const Isa isa : {Isa::avx512_bf16, Isa::amx})
    EXPECT_EXIT(
        {
          setenv("FUSION_ATTENTION_ASSUME_ISA", name(isa), 1);
          std::_Exit(detected(isa).usable ? 1 : 2);
        },
        [isa](int status) { return WIFEXITED(status) && WEXITSTATUS(status) == (executes(isa) ? 1 : 2); }, "")
        << name(isa);
}

}  // namespace
}  // namespace fusion_attention::arch
