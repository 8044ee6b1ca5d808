#include "plan/node_lists.h"

#include <utility>

#include "base/math.h"

namespace fusion_attention::plan {

void divide_among_nodes(const Schedule& schedule, std::int64_t sequences, std::int64_t kv_heads, int nodes,
                        NodeLists& out) {
  const auto head_of = [kv_heads](const Task& task) {
    return static_cast<std::size_t>(task.sequence * kv_heads + task.kv_head);
  };
  // A task that sees nothing is taken too.
  const auto weight_of = [](const Task& task) { return task.weight + 1; };
  out.heads.assign(static_cast<std::size_t>(sequences * kv_heads), 0);
  for (const Task& task : schedule.tasks) out.heads[head_of(task)] += weight_of(task);
  // Heads on a line as cards are dealt: the first heads of a backward are heavy tasks and the last many light
  // ones, and every node needs both, or its cores do not end together.
  std::int64_t all = 0;
  for (std::size_t first = 0; first < static_cast<std::size_t>(nodes); ++first)
    for (std::size_t head = first; head < out.heads.size(); head += static_cast<std::size_t>(nodes))
      all += std::exchange(out.heads[head], all);

  // A task belongs where its middle falls on that line.
  out.node.clear();
  out.ends.assign(static_cast<std::size_t>(nodes), 0);
  for (const Task& task : schedule.tasks) {
    std::int64_t& before = out.heads[head_of(task)];
    const double middle = static_cast<double>(before) + static_cast<double>(weight_of(task)) / 2;
    before += weight_of(task);
    const auto node = lesser(nodes - 1, static_cast<std::int64_t>(middle / static_cast<double>(all) * nodes));
    out.node.push_back(static_cast<std::uint8_t>(node));
    ++out.ends[static_cast<std::size_t>(node)];
  }

  std::int64_t begin = 0;
  for (std::int64_t& end : out.ends) begin += std::exchange(end, begin);
  out.order.resize(schedule.tasks.size());
  for (std::size_t i = 0; i < out.node.size(); ++i)
    out.order[static_cast<std::size_t>(out.ends[out.node[i]]++)] = static_cast<std::int64_t>(i);
}

}  // namespace fusion_attention::plan
