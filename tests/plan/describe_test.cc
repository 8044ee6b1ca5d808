// What choices() says is what plans do.
#include "fusion_attention/describe.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <set>
#include <string>

#include "fusion_attention/error.h"
#include "fusion_attention/machine.h"
#include "fusion_attention/run.h"
#include "plan/machine.h"
#include "plan/plan.h"
#include "support/kernel_choice.h"

namespace fusion_attention::plan {
namespace {

class Choices : public testing::KernelChoice {};

Choice choice_of(const std::string& pass, const std::string& dtype) {
  for (const Choice& choice : choices())
    if (choice.pass == pass && choice.dtype == dtype) return choice;
  ADD_FAILURE() << pass << " " << dtype << " is missing";
  return {};
}

TEST_F(Choices, AreOnePerPassAndDtype) {
  std::set<std::string> seen;
  for (const Choice& choice : choices()) EXPECT_TRUE(seen.insert(choice.pass + " " + choice.dtype).second);
  EXPECT_EQ(seen, (std::set<std::string>{"forward fp32", "forward fp16", "forward bf16", "decode fp32",
                                         "decode fp16", "decode bf16", "backward fp32", "backward fp16",
                                         "backward bf16", "integer int8"}));
}

TEST_F(Choices, AreThoseOfPlans) {
  const std::vector<Part> built = kernels_built();
  for (const Dtype dtype : {Dtype::float32, Dtype::float16, Dtype::bfloat16})
    for (const Pass pass : {Pass::forward, Pass::backward}) {
      const Problem p = dense_problem(pass, dtype, 1, 8, 8, 512, 512, 128, 128, 1, {});
      const Plan plan = make_plan(p);
      const Choice choice = choice_of(pass == Pass::forward ? "forward" : "backward", name(dtype));
      EXPECT_EQ(choice.kernel, plan.kernel());
      const kernels::Blocking& blocking = plan.state().blocking;
      EXPECT_EQ(choice.rows, blocking.rows);
      EXPECT_EQ(choice.keys, blocking.keys);
      EXPECT_EQ(choice.round_trip, blocking.round_trip);
      EXPECT_EQ(choice.splits, blocking.splits);
      EXPECT_GT(choice.rate, 1e8);
      // With the chosen one, every arch that was built.
      EXPECT_EQ(choice.passed_over.size() + 1,
                std::count_if(built.begin(), built.end(), [&](const Part& part) {
                  return part.name.rfind(choice.pass, 0) == 0 &&
                         part.name.rfind("_" + choice.dtype) == part.name.size() - 5;
                }));
      for (const Part& part : choice.passed_over) EXPECT_NE(part.refused, "") << part.name;
    }
}

TEST_F(Choices, HonourTheEnvironment) {
  setenv("FUSION_ATTENTION_MACHINE", "tiny", 1);
  EXPECT_EQ(choice_of("forward", "fp32").machine, "tiny");
  EXPECT_EQ(choice_of("forward", "fp32").rows, 32);
  setenv("FUSION_ATTENTION_KERNEL", "amx_emulated", 1);
  const Choice emulated = choice_of("backward", "fp16");
  EXPECT_EQ(emulated.kernel, "backward_amx_emulated_fp16");
  EXPECT_EQ(emulated.products, 4);
  EXPECT_EQ(emulated.roof, "");
  setenv("FUSION_ATTENTION_KERNEL", "nonsense", 1);
  EXPECT_THROW(choices(), Error);
}

// Ruling 27, on machines that this one may not be.
TEST_F(Choices, TheRouteOfEveryRow) {
  struct Wanted {
    const char* roof;
    int products;
  };
  const std::map<std::string, Wanted> wanted = {
      {"forward_amx_bf16", {"amx", 1}},
      {"forward_amx_fp16", {"amx", 4}},
      {"backward_amx_fp32", {"amx", 6}},
      {"decode_amx_bf16", {"fma", 1}},
      {"forward_avx512_bf16_bf16", {"vdpbf16ps", 1}},
      {"forward_avx512_bf16_fp16", {"fma", 1}},
      {"backward_avx2_bf16", {"fma_ymm", 1}},
      {"forward_scalar_fp32", {"", 1}},
      {"forward_amx_emulated_fp16", {"", 4}},
  };
  const std::set<std::string> roofs = {"", "fma", "fma_ymm", "vdpbf16ps", "amx"};
  for (const kernels::Row& row : kernels::rows()) {
    const Route route = route_of(row);
    EXPECT_STRNE(route.text, "") << row.name;
    EXPECT_TRUE(roofs.count(route.roof)) << row.name;
    const auto known = wanted.find(row.name);
    if (known == wanted.end()) continue;
    EXPECT_STREQ(route.roof, known->second.roof) << row.name;
    EXPECT_EQ(route.products, known->second.products) << row.name;
  }
}

// What a row multiplies is bounded by the loop that its route names, which is tried until it has the core for
// itself.
TEST_F(Choices, RatesStayBelowTheirRoof) {
  for (const Choice& choice : choices())
    for (const Roof& roof : roofs()) {
      if (choice.roof != roof.name) continue;
      double most = 0;
      for (int i = 0; i < 50 && most < choice.rate * choice.products / 1.1; ++i)
        most = std::max(most, roof.measure(0.02));
      EXPECT_GE(most, choice.rate * choice.products / 1.1) << choice.kernel;
    }
}

}  // namespace
}  // namespace fusion_attention::plan
