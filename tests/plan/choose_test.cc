#include "plan/choose.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>

#include "arch/cpu.h"
#include "fusion_attention/error.h"
#include "fusion_attention/run.h"
#include "plan/machine.h"
#include "plan/plan.h"
#include "support/kernel_choice.h"

namespace fusion_attention::plan {
namespace {

using kernels::Algorithm;

constexpr Dtype kDtypes[] = {Dtype::float32, Dtype::float16, Dtype::bfloat16};
constexpr Algorithm kAlgorithms[] = {Algorithm::forward, Algorithm::decode, Algorithm::backward};

class Choose : public testing::KernelChoice {};

TEST_F(Choose, TakesTheFastestThatServesAndSaysWhyNotTheOthers) {
  for (const Algorithm algorithm : kAlgorithms)
    for (const Dtype dtype : kDtypes) {
      const auto all = weigh(algorithm, dtype);
      const kernels::Row& row = choose(algorithm, dtype);
      EXPECT_EQ(row.algorithm, algorithm);
      EXPECT_EQ(row.dtype, dtype);
      EXPECT_STRNE(row.arch, "amx_emulated");
      double chosen = 0, most = 0;
      int taken = 0;
      for (const Candidate& c : all) {
        taken += c.passed_over.empty();
        most = std::max(most, c.rate);
        if (c.row == &row) chosen = c.rate;
      }
      EXPECT_EQ(taken, 1);
      EXPECT_EQ(all.size(), static_cast<std::size_t>(kernels::rows().end() - kernels::rows().begin()));
      EXPECT_GE(chosen, 0.9 * most) << row.name;
      EXPECT_GT(chosen, 0) << row.name;
    }
}

TEST_F(Choose, TheCapOnInstructionSetsHolds) {
  for (const arch::Isa cap : {arch::Isa::scalar, arch::Isa::avx2}) {
    setenv("FUSION_ATTENTION_MAX_ISA", arch::name(cap), 1);
    if (!arch::status(cap).usable) continue;
    for (const Dtype dtype : kDtypes)
      EXPECT_STREQ(choose(Algorithm::forward, dtype).arch, arch::name(cap)) << "remembered from before?";
  }
}

TEST_F(Choose, AnArchIsForcedInEveryPass) {
  for (const char* arch : {"scalar", "amx_emulated"}) {
    setenv("FUSION_ATTENTION_KERNEL", arch, 1);
    for (const Algorithm algorithm : kAlgorithms)
      for (const Dtype dtype : kDtypes) {
        EXPECT_STREQ(choose(algorithm, dtype).arch, arch);
        EXPECT_EQ(choose(algorithm, dtype).algorithm, algorithm);
      }
  }
}

TEST_F(Choose, ARowIsForcedWhereItFitsAndItsArchElsewhere) {
  setenv("FUSION_ATTENTION_KERNEL", "forward_scalar_fp32", 1);
  EXPECT_STREQ(choose(Algorithm::forward, Dtype::float32).name, "forward_scalar_fp32");
  EXPECT_STREQ(choose(Algorithm::decode, Dtype::float32).name, "forward_scalar_fp32");
  EXPECT_STREQ(choose(Algorithm::decode, Dtype::bfloat16).name, "decode_scalar_bf16");
  EXPECT_STREQ(choose(Algorithm::backward, Dtype::float32).name, "backward_scalar_fp32");
  setenv("FUSION_ATTENTION_KERNEL", "decode_scalar_fp32", 1);
  EXPECT_STREQ(choose(Algorithm::decode, Dtype::float32).name, "decode_scalar_fp32");
  EXPECT_THROW(choose(Algorithm::forward, Dtype::float32), Error);
}

TEST_F(Choose, WhatIsUnknownOrRefusedIsAnError) {
  for (const char* name : {"forward", "avx9", "forward_scalar_fp64", "scalar "}) {
    setenv("FUSION_ATTENTION_KERNEL", name, 1);
    try {
      choose(Algorithm::forward, Dtype::float32);
      ADD_FAILURE() << name;
    } catch (const Error& e) {
      EXPECT_EQ(e.argument(), "FUSION_ATTENTION_KERNEL");
      EXPECT_EQ(e.given(), name);
    }
  }
  setenv("FUSION_ATTENTION_KERNEL", "avx2", 1);
  setenv("FUSION_ATTENTION_MAX_ISA", "scalar", 1);
  EXPECT_THROW(choose(Algorithm::forward, Dtype::float32), Error);
}

TEST_F(Choose, Int8OperandsHaveRowsOfTheirOwn) {
  const Problem p = dense_problem(Pass::forward, Dtype::int8, 1, 4, 2, 1, 3000, 64, 64, 1, {});
  EXPECT_EQ(std::string(make_plan(p).kernel()).substr(0, 7),
            "integer");  // few rows or not: no splits over keys
  for (const char* arch : {"scalar", "amx_emulated"}) {
    setenv("FUSION_ATTENTION_KERNEL", arch, 1);
    EXPECT_EQ(make_plan(p).kernel(), std::string("integer_") + arch + "_int8");
  }
  setenv("FUSION_ATTENTION_KERNEL", "forward_scalar_fp32", 1);
  EXPECT_STREQ(make_plan(p).kernel(), "integer_scalar_int8");
  setenv("FUSION_ATTENTION_MACHINE", "tiny", 1);
  EXPECT_EQ(blocking_for(choose(Algorithm::integer, Dtype::int8), 64, 64).splits, 1);
}

TEST_F(Choose, TheTinyMachineIsAskedForByName) {
  const kernels::Row& row = choose(Algorithm::forward, Dtype::float32);
  const auto ordinary = blocking_for(row, 128, 128);
  setenv("FUSION_ATTENTION_MACHINE", "tiny", 1);
  const auto tiny = blocking_for(row, 128, 128);
  EXPECT_EQ(tiny.rows, 32);
  EXPECT_EQ(tiny.keys, 64);
  EXPECT_EQ(tiny.splits, 4);
  setenv("FUSION_ATTENTION_MACHINE", "huge", 1);
  ::testing::internal::CaptureStderr();
  EXPECT_EQ(blocking_for(row, 128, 128).rows, ordinary.rows);
  EXPECT_EQ(::testing::internal::GetCapturedStderr(),
            "fusion_attention: FUSION_ATTENTION_MACHINE=huge is ignored: allowed is tiny\n");
}

TEST_F(Choose, EveryBlockingIsLegalAtEveryDepth) {
  for (const kernels::Row& row : kernels::rows())
    for (std::int64_t depth = 1; depth <= 1100; depth += 9)
      for (const std::int64_t value_depth : {std::int64_t{1}, depth, std::int64_t{512}}) {
        const auto b = blocking_for(row, depth, value_depth);
        EXPECT_TRUE(b.rows % 32 == 0 || row.algorithm == Algorithm::decode) << row.name << depth;
        EXPECT_TRUE(b.rows > 0 && b.keys > 0 && b.round_trip > 0 && b.splits > 0) << row.name << depth;
        EXPECT_EQ(b.round_trip % 32, 0) << row.name << depth;
        EXPECT_EQ(b.keys % b.round_trip, 0) << row.name << depth;
        EXPECT_TRUE(row.algorithm != Algorithm::forward || b.round_trip <= kernels::kMostRoundTrip)
            << row.name;
        EXPECT_TRUE(row.algorithm != Algorithm::forward || b.keys <= kernels::kMostChunk) << row.name;
        EXPECT_TRUE(row.algorithm != Algorithm::backward || std::max(b.rows, b.keys) <= kernels::kMostChunk)
            << row.name;
      }
}

// Growing lengths, as in a decode, keep their kernel; few query rows take the decode kernel.
TEST_F(Choose, APlanNamesTheKernelOfItsLongestSequence) {
  const auto kernel = [](std::int64_t heads, std::int64_t kv_heads, std::int64_t rows, std::int64_t keys) {
    return std::string(
        make_plan(dense_problem(Pass::forward, Dtype::float32, 1, heads, kv_heads, rows, keys, 64, 64, 1, {}))
            .kernel());
  };
  const std::string decode = kernel(32, 8, 1, 100);
  EXPECT_EQ(decode.substr(0, 6), "decode");
  EXPECT_EQ(kernel(32, 8, 1, 101), decode);
  EXPECT_EQ(kernel(1, 1, 17, 100).substr(0, 7), "forward");
  for (const kernels::Row& row : kernels::rows()) {
    if (row.algorithm != Algorithm::decode || row.dtype != Dtype::float32 || !refused(row).empty()) continue;
    const int few = blocking_for(row, 64, 64).rows;
    setenv("FUSION_ATTENTION_KERNEL", row.arch, 1);
    EXPECT_EQ(kernel(few, 1, 1, 100), row.name);
    EXPECT_EQ(kernel(few + 1, 1, 1, 100), std::string("forward_") + row.arch + "_fp32");
  }
}

TEST_F(Choose, ExplainNamesTheProblemTheKernelAndTheTiles) {
  const Problem p =
      dense_problem(Pass::forward, Dtype::float32, 2, 4, 2, 300, 300, 64, 64, 0.125, Band{.hi = 0});
  const std::string said = explain(p);
  EXPECT_NE(said.find(text(p)), std::string::npos) << said;
  EXPECT_NE(said.find(make_plan(p).kernel()), std::string::npos) << said;
  // 10 row blocks of 10 tiles, twice: the diagonal is part, 45 below it are full.
  EXPECT_NE(said.find("90 none, 20 part, 90 full"), std::string::npos) << said;
  EXPECT_NE(said.find("forward_amx_emulated_fp32: an emulation, for tests"), std::string::npos) << said;
  EXPECT_GT(make_plan(p).workspace_bytes(), 0u);
}

TEST_F(Choose, APlanNoAddressSpaceHoldsIsAMemoryError) {
  const std::int64_t huge = std::int64_t{1} << 40;
  Problem p = dense_problem(Pass::backward, Dtype::float32, 1, 1, 1, 64, huge, 1, 1 << 20, 1, {});
  for (auto view : {&Problem::value, &Problem::value_gradient}) (p.*view).shape[3] = 1 << 18;
  try {
    make_plan(p);
    ADD_FAILURE() << "2^60 bytes of scratch";
  } catch (const Error& e) {
    EXPECT_TRUE(e.kind() == ErrorKind::memory || e.kind() == ErrorKind::value) << e.what();
  }
}

}  // namespace
}  // namespace fusion_attention::plan
