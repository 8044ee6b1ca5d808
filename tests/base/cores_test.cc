#include "base/cores.h"

#include <gtest/gtest.h>

#include "support/temporary_files.h"

namespace fusion_attention {
namespace {

class Quota : public testing::TemporaryFiles {
 protected:
  Quota() : TemporaryFiles("cores_test") {}

  int cores(const std::string& membership) { return quota_cores(root(), membership); }
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
