#include "plan/machine.h"

#include <algorithm>
#include <cstring>

#include "base/environment.h"

namespace fusion_attention::plan {
namespace {

using kernels::Algorithm, kernels::Blocking;

constexpr Blocking kTiny{.rows = 32, .keys = 64, .round_trip = 64, .splits = 2};

struct MachineRow {
  const char* arch;  // prefix of the kernel row's arch
  Algorithm algorithm;
  Blocking blocking;
};

// rows        forward: what packing a key for one task costs, measured at D = 128 in fp32: 11 % at 128 rows,
//             6 % at 256, 3 % at 512. The tile unit is 8 times as fast: 1024. backward: 256 queries, so that
//             dV and dK are loaded and stored once per 256 of depth.
//             decode: the most query rows of a kv head. Its rows share a line of K four at a time; the
//             forward packs and takes sixteen for the price of one. Forward over decode in speed, measured in
//             bf16 and fp32, D = 64 … 256, 512 … 32768 keys: AVX-512 0.58 … 0.81 with 4 rows, 1.01 … 1.8 with
//             5 … 8, 1.2 … 2.9 with 16; AVX2 0.62 … 0.89 with 5 … 8, 1.04 … 1.9 with 16.
// keys        K and V of a chunk with Q and O of the super-block fit a 2 MiB L2 at D = 128 (4-byte units: 512
//             keys).
// round_trip  P of one round trip is 32 KiB of 4-byte units; less means more loads and stores of O (128:
//             −1 %). The tile unit stores C at the cost of 16 multiplications: 256 keys amortise them.
// splits      the most that one head is cut into: 16 tasks where a problem has a single one.
// integer     takes its keys from its definition and no splits; only the rows are a choice.
constexpr MachineRow kTable[] = {
    {"amx", Algorithm::forward, {.rows = 1024, .keys = 1024, .round_trip = 256, .splits = 16}},
    {"", Algorithm::forward, {.rows = 512, .keys = 512, .round_trip = 256, .splits = 16}},
    {"avx2", Algorithm::decode, {.rows = 8, .keys = 1024, .round_trip = 256, .splits = 16}},
    {"scalar", Algorithm::decode, {.rows = 16, .keys = 1024, .round_trip = 256, .splits = 16}},
    {"", Algorithm::decode, {.rows = 4, .keys = 1024, .round_trip = 256, .splits = 16}},
    {"", Algorithm::integer, {.rows = 512, .keys = 1024, .round_trip = 1024, .splits = 1}},
    {"", Algorithm::backward, {.rows = 256, .keys = 128, .round_trip = 128, .splits = 16}},
};

}  // namespace

Blocking blocking_for(const kernels::Row& row, std::int64_t depth, std::int64_t value_depth) {
  if (const char* machine = environment("FUSION_ATTENTION_MACHINE")) {
    if (std::strcmp(machine, "tiny") == 0) {
      Blocking tiny = kTiny;
      if (row.algorithm == Algorithm::integer) tiny.splits = 1;
      return tiny;
    }
    warn_ignored("FUSION_ATTENTION_MACHINE", machine, "tiny");
  }
  for (const MachineRow& entry : kTable) {
    if (entry.algorithm != row.algorithm || std::strncmp(row.arch, entry.arch, std::strlen(entry.arch)) != 0)
      continue;
    Blocking blocking = entry.blocking;
    // The table is for D + Dv = 256; deeper heads get fewer rows and keys, for the same bytes in L2.
    for (std::int64_t width = depth + value_depth; width > 256 && blocking.rows > 64; width /= 2) {
      blocking.rows = std::max(64, blocking.rows / 2);
      blocking.keys = std::max(blocking.round_trip, blocking.keys / 2);
    }
    return blocking;
  }
  return kTiny;
}

}  // namespace fusion_attention::plan
