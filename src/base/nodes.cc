#include "base/nodes.h"

#include <sched.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "base/environment.h"

namespace fusion_attention {
namespace {

// "0-3,8,10-11", as the kernel writes sets of numbers.
std::vector<std::size_t> numbers_in(const std::string& file) {
  std::vector<std::size_t> numbers;
  std::ifstream stream(file);
  for (std::string range; std::getline(stream, range, ',');) {
    std::istringstream text(range);
    std::size_t first = 0, last = 0;
    if (!(text >> first)) break;
    last = text.get() == '-' && text >> last ? last : first;
    for (; first <= last && first < CPU_SETSIZE; ++first) numbers.push_back(first);
  }
  return numbers;
}

Nodes nodes_here() {
  if (const char* text = environment("FUSION_ATTENTION_NODES")) {
    const int wanted = std::atoi(text);
    if (wanted >= 1 && wanted <= kMostNodes) {
      Nodes pretended{wanted, std::vector<std::uint8_t>(CPU_SETSIZE)};
      for (std::size_t cpu = 0; cpu < CPU_SETSIZE; ++cpu)
        pretended.of_cpu[cpu] = static_cast<std::uint8_t>(cpu % static_cast<std::size_t>(wanted));
      return pretended;
    }
    warn_ignored("FUSION_ATTENTION_NODES", text, "1 … 8");
  }
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) != 0) return {};
  std::vector<bool> usable(CPU_SETSIZE);
  for (std::size_t cpu = 0; cpu < CPU_SETSIZE; ++cpu) usable[cpu] = CPU_ISSET(cpu, &set);
  return read_nodes("/sys/devices/system/node", usable);
}

}  // namespace

Nodes read_nodes(const std::string& root, const std::vector<bool>& usable) {
  Nodes found{0, {}};
  for (const std::size_t node : numbers_in(root + "/online")) {
    bool any = false;
    for (const std::size_t cpu : numbers_in(root + "/node" + std::to_string(node) + "/cpulist")) {
      if (cpu >= usable.size() || !usable[cpu]) continue;
      any = true;
      found.of_cpu.resize(std::max(found.of_cpu.size(), cpu + 1));
      found.of_cpu[cpu] = static_cast<std::uint8_t>(found.count % kMostNodes);
    }
    found.count += any;
  }
  found.count = std::clamp(found.count, 1, kMostNodes);
  return found;
}

const Nodes& nodes() {
  static const Nodes here = nodes_here();
  return here;
}

int current_node() {
  const std::vector<std::uint8_t>& of_cpu = nodes().of_cpu;
  const auto cpu = static_cast<std::size_t>(sched_getcpu());  // −1 is behind every end
  return cpu < of_cpu.size() ? of_cpu[cpu] : 0;
}

}  // namespace fusion_attention
