// The tasks of a schedule divided among memory nodes. A pure function of both: tested by simulation.
#pragma once

#include <cstdint>
#include <vector>

#include "plan/schedule.h"

namespace fusion_attention::plan {

struct NodeLists {
  std::vector<std::int64_t> order;  // indices of Schedule::tasks, the list of one node behind the other
  std::vector<std::int64_t> ends;   // of the lists in it

  std::vector<std::int64_t> heads;  // work memory: of every kv head of every sequence, the weight before it
  std::vector<std::uint8_t> node;   // and of every task, its node
};

// Lists of equal weight that take the kv heads of the sequences in turn. At most nodes − 1 heads have tasks
// in two lists or more: the keys of all others are read by one node alone. Within a list the schedule's order
// stays, heavy first.
// O(tasks + sequences × kv heads); `out`, whose memory is reused, allocates only to grow.
void divide_among_nodes(const Schedule& schedule, std::int64_t sequences, std::int64_t kv_heads, int nodes,
                        NodeLists& out);

}  // namespace fusion_attention::plan
