// Memory nodes (NUMA): which part of the machine a thread is running on.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace fusion_attention {

struct Nodes {
  int count = 1;
  std::vector<std::uint8_t> of_cpu;  // 0 … count-1; a CPU behind the end is on node 0
};

// The nodes at most that work is divided among; of more, every kMostNodes-th counts as one.
inline constexpr int kMostNodes = 8;

// What the folder `root` says in the form of /sys/devices/system/node, of the nodes that have any of the CPUs
// `usable`. One node where it says nothing.
Nodes read_nodes(const std::string& root, const std::vector<bool>& usable);

// Those of this machine that the affinity of the first calling thread allows; read once.
// FUSION_ATTENTION_NODES=<n> (for tests) pretends that CPU i is on node i mod n.
const Nodes& nodes();

// Where the calling thread runs at the moment.
int current_node();

}  // namespace fusion_attention
