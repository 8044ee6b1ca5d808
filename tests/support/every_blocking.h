// A fixture for every arch with both blockings of the machine table.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <tuple>

#include "support/every_arch.h"
#include "support/kernel_choice.h"

namespace fusion_attention::testing {

class EveryBlocking : public KernelChoice,
                      public ::testing::WithParamInterface<std::tuple<std::string, const char*>> {
 protected:
  void SetUp() override {
    if (force(arch()) == kNotAtAll) GTEST_SKIP() << arch() << " does not execute on this CPU";
    setenv("FUSION_ATTENTION_MACHINE", std::get<1>(GetParam()), 1);
  }
  const std::string& arch() const { return std::get<0>(GetParam()); }
};

inline auto every_blocking() {
  return ::testing::Combine(::testing::ValuesIn(arches()), ::testing::Values("ordinary", "tiny"));
}
inline std::string name_of_blocking(const ::testing::TestParamInfo<EveryBlocking::ParamType>& info) {
  return std::get<0>(info.param) + "_" + std::get<1>(info.param);
}

}  // namespace fusion_attention::testing
