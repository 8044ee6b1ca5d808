#include "base/cores.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace fusion_attention {
namespace {

class Quota : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = std::filesystem::path(::testing::TempDir()) / "fusion_attention_cores_test";
    std::filesystem::remove_all(root_);
  }
  void TearDown() override { std::filesystem::remove_all(root_); }
  void write(const std::string& file, const std::string& text) {
    std::filesystem::create_directories((root_ / file).parent_path());
    std::ofstream(root_ / file) << text << "\n";
  }
  int cores(const std::string& membership) { return quota_cores(root_.string(), membership); }

 private:
  std::filesystem::path root_;
};

TEST_F(Quota, NoneIsNoLimit) {
  EXPECT_EQ(cores("0::/\n"), 0);
  EXPECT_EQ(cores(""), 0);
  write("cpu.max", "max 100000");
  EXPECT_EQ(cores("0::/\n"), 0);
}

TEST_F(Quota, RoundsUp) {
  write("cpu.max", "150000 100000");
  EXPECT_EQ(cores("0::/\n"), 2);
  write("cpu.max", "20000 100000");
  EXPECT_EQ(cores("0::/\n"), 1);
}

TEST_F(Quota, TheTightestOfAGroupAndItsParents) {
  write("a/cpu.max", "300000 100000");
  write("a/b/cpu.max", "max 100000");
  EXPECT_EQ(cores("0::/a/b\n"), 3);
  write("a/b/cpu.max", "200000 100000");
  EXPECT_EQ(cores("0::/a/b\n"), 2);
  EXPECT_EQ(cores("0::/a\n"), 3);
  EXPECT_EQ(cores("0::/a/gone/too\n"), 3);
}

TEST_F(Quota, VersionOne) {
  write("cpu,cpuacct/box/cpu.cfs_quota_us", "400000");
  write("cpu,cpuacct/box/cpu.cfs_period_us", "100000");
  write("cpu,cpuacct/cpu.cfs_quota_us", "-1");
  write("cpu,cpuacct/cpu.cfs_period_us", "100000");
  EXPECT_EQ(cores("7:memory:/box\n3:cpu,cpuacct:/box\n"), 4);
  EXPECT_EQ(cores("7:memory:/box\n3:cpu,cpuacct:/\n"), 0);
}

TEST(AvailableCores, IsAtLeastOne) {
  EXPECT_GE(available_cores(), 1);
}

}  // namespace
}  // namespace fusion_attention
