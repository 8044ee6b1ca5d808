// The machine table: the numbers that kernels are run with, each with its reason. Porting to another machine
// edits this table, never a loop. `python -m fusion_attention calibrate` shows what of it a machine takes.
#pragma once

#include <cstdint>

#include "kernels/kernels.h"

namespace fusion_attention::plan {

// A row of the table, as it serves one kernel row.
struct MachineRow {
  const char* name;  // "amx forward", "forward", "tiny"
  kernels::Blocking blocking;
};

// For problems of this depth. FUSION_ATTENTION_MACHINE=tiny gives the smallest legal numbers instead, so that
// small problems meet every block boundary (half of the random tests run on it).
MachineRow machine_row(const kernels::Row& row, std::int64_t depth, std::int64_t value_depth);
inline kernels::Blocking blocking_for(const kernels::Row& row, std::int64_t depth, std::int64_t value_depth) {
  return machine_row(row, depth, value_depth).blocking;
}

// How the multiplications of a kernel row are made, for its dtype on its arch.
struct Route {
  const char* text;
  const char* roof;  // of fusion_attention/machine.h, that its rate is compared with; "" where there is none
  int products;      // multiplications of that roof's kind per useful one
};
Route route_of(const kernels::Row& row);

// How work is cut into tasks (plan/schedule.cc): the same on every machine so far. What decides splits
// decides bits as well.
struct Division {
  // Query rows, heads of a group together, up to which keys are split: more rows than that are tasks enough,
  // if they are not the heads of fewer rows than a task takes at least.
  std::int64_t few_rows = 512, least_task_rows = 32;
  // Keys of a split at least. Merging costs a record of Dv + 2 floats per row and split, 512 keys of
  // arithmetic on the row 500 times as much; but a chunk of keys is packed for the rows of one task, so many
  // rows take longer ones.
  std::int64_t least_keys = 512, least_keys_many_rows = 1024, many_rows = 64;
  // Query rows of a backward split at least. Its dK and dV are cleared, stored and added up once per that
  // many: not measurable at 768 rows. Two threads share a head of 1024 rows as well, which costs one thread
  // some percent (docs/kernels/backward.md): the cut leaves one more super-block, whose keys are packed.
  std::int64_t least_rows = 768, least_rows_of_two = 512;
  // Tasks per thread at least, where there are rows enough; those of the last round are this much smaller, so
  // that threads end together.
  std::int64_t tasks_per_thread = 4, last_round = 4;
  // Partials of the backward, in floats: of the splits of one head, which bounds their number (2 GiB); and of
  // all splits side by side per thread, beyond which heads run theirs as chains (256 MiB).
  std::int64_t most_head_floats = std::int64_t{1} << 29, most_thread_floats = std::int64_t{1} << 26;
  // Keys of a backward merge: one head must not leave the other threads idle.
  std::int64_t merge_keys = 256;
  // Tiles for each thread at least: four are some 10 µs of FMA, and waking a thread costs as much.
  std::int64_t tiles_per_thread = 4;
};
inline constexpr Division kDivision;

}  // namespace fusion_attention::plan
