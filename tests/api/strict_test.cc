#include "fusion_attention/families/strict.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <set>

#include "fusion_attention/error.h"

namespace fusion_attention {
namespace {

const std::vector<std::int64_t> kWide = {1, 1, 8, 1024};

void read(std::optional<bool> strict) {
  const Array operand = contiguous_array(nullptr, Element::float32, kWide.data(), 4);
  FusionAttentionOptions options;
  options.head_num = 1;
  options.input_layout = "BNSD";
  options.strict = strict;
  FusionAttention(Pass::forward, operand, operand, operand, options);
}

TEST(Strict, TheOptionGoesBeforeTheEnvironment) {
  ::unsetenv("FUSION_ATTENTION_STRICT");
  EXPECT_NO_THROW(read(std::nullopt));
  EXPECT_THROW(read(true), Error);
  ::setenv("FUSION_ATTENTION_STRICT", "1", 1);
  EXPECT_THROW(read(std::nullopt), Error);
  EXPECT_NO_THROW(read(false));
  ::unsetenv("FUSION_ATTENTION_STRICT");
}

TEST(Strict, TheSentenceHasTheLimitAndItsSource) {
  try {
    read(true);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.argument(), "query");
    EXPECT_EQ(error.given(), "D = 1024");
    EXPECT_EQ(error.allowed(),
              "D of 1 to 768 by the document of npu_fusion_attention (strict mode; "
              "torch_npu-npu_fusion_attention.md, constraints)");
  }
}

TEST(Strict, EveryRowHasAKeyAndAnInterface) {
  std::set<std::string> keys;
  for (const DocumentedLimit& limit : documented_limits()) {
    EXPECT_TRUE(keys.insert(limit.key).second) << limit.key;
    EXPECT_FALSE(limit.interfaces.empty()) << limit.key;
    for (const Interface interface : limit.interfaces) EXPECT_EQ(interface_of(name(interface)), interface);
  }
  EXPECT_EQ(interface_of("flash_attention"), std::nullopt);
}

}  // namespace
}  // namespace fusion_attention
