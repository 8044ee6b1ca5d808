#include "base/nodes.h"

#include <gtest/gtest.h>

#include "support/temporary_files.h"

namespace fusion_attention {
namespace {

class NodesOf : public testing::TemporaryFiles {
 protected:
  NodesOf() : TemporaryFiles("nodes_test") {}

  Nodes read(std::size_t cpus) { return read_nodes(root(), std::vector<bool>(cpus, true)); }
};

using Map = std::vector<std::uint8_t>;

TEST_F(NodesOf, NothingToReadIsOneNode) {
  EXPECT_EQ(read(8).count, 1);
  write("online", "");
  EXPECT_EQ(read(8).count, 1);
  write("online", "nonsense");
  EXPECT_EQ(read(8).count, 1);
  EXPECT_TRUE(read(8).of_cpu.empty());
}

TEST_F(NodesOf, TwoSocketsWithThreadSiblings) {
  write("online", "0-1");
  write("node0/cpulist", "0-1,4-5");
  write("node1/cpulist", "2-3,6,7");
  EXPECT_EQ(read(8).count, 2);
  EXPECT_EQ(read(8).of_cpu, (Map{0, 0, 1, 1, 0, 0, 1, 1}));
}

TEST_F(NodesOf, WithoutCpusOfOursDoNotCount) {
  write("online", "0,2-4");
  write("node0/cpulist", "0-1");
  write("node2/cpulist", "");  // memory alone
  write("node3/cpulist", "2-3");
  write("node4/cpulist", "4-5");
  const Nodes all = read(6);
  EXPECT_EQ(all.count, 3);
  EXPECT_EQ(all.of_cpu, (Map{0, 0, 1, 1, 2, 2}));
  const Nodes ours = read_nodes(root(), {false, false, false, true, true, false});
  EXPECT_EQ(ours.count, 2);
  EXPECT_EQ(ours.of_cpu, (Map{0, 0, 0, 0, 1}));
}

TEST_F(NodesOf, MoreThanWeDivideAmongShareNumbers) {
  write("online", "0-9");
  for (int node = 0; node < 10; ++node)
    write("node" + std::to_string(node) + "/cpulist", std::to_string(node));
  EXPECT_EQ(read(10).count, kMostNodes);
  EXPECT_EQ(read(10).of_cpu, (Map{0, 1, 2, 3, 4, 5, 6, 7, 0, 1}));
}

TEST(NodesHere, AThreadIsOnOneOfThem) {
  EXPECT_GE(nodes().count, 1);
  EXPECT_LE(nodes().count, kMostNodes);
  EXPECT_GE(current_node(), 0);
  EXPECT_LT(current_node(), nodes().count);
}

}  // namespace
}  // namespace fusion_attention
