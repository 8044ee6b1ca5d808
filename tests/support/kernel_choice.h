// A fixture that forgets what a test has set to choose a kernel or its numbers.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>

namespace fusion_attention::testing {

class KernelChoice : public ::testing::Test {
 protected:
  void TearDown() override {
    for (const char* variable :
         {"FUSION_ATTENTION_KERNEL", "FUSION_ATTENTION_MAX_ISA", "FUSION_ATTENTION_MACHINE"})
      unsetenv(variable);
  }
};

}  // namespace fusion_attention::testing
