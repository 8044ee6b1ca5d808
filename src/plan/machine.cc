#include "plan/machine.h"

#include <algorithm>
#include <cstring>

#include "arch/cpu.h"
#include "base/environment.h"

namespace fusion_attention::plan {
namespace {

using kernels::Algorithm;

constexpr MachineRow kTiny{"tiny", {.rows = 32, .keys = 64, .round_trip = 64, .splits = 4}};

// The extents of a tile are no choice of this table: 32 × 32 with lines of 64 bytes is what two by two tiles
// of the AMX unit hold, and every arch packs for them (arch/tile.h). How many registers of it are computed at
// a time is the arch's (arch/registers.h): 8 rows × 2 of the 32 registers of AVX-512, 10 loads for 16
// multiplications, so that two load ports keep two FMA ports busy; 5 or 6 × 2 of the 16 of AVX2.
//
// rows        forward: what packing a key for one task costs, measured at D = 128 in fp32: 11 % at 128 rows,
//             6 % at 256, 3 % at 512. The tile unit is 8 times as fast: 1024. backward: 256 queries, so that
//             dV and dK are loaded and stored once per 256 of depth. integer: as the forward.
//             decode: the most query rows of a kv head. Its rows share a line of K four at a time; the
//             forward packs and takes sixteen for the price of one. Forward over decode in time, measured on
//             AVX-512 in bf16: 7 rows 1.38 (8192 keys, D = 128), 8 rows 1.09 (8192, D = 256) and 0.83 (512,
//             D = 64), 16 rows 0.54; on AVX2, bf16 and fp32, 1.1 … 1.6 with 5 … 8 rows, 0.5 … 0.96 with 16.
// keys        K and V of a chunk with Q and O of the super-block fit a 2 MiB L2 at D = 128 (4-byte units: 512
//             keys; tiles hold bf16 pairs: 1024). decode packs nothing: 1024 is a multiple of the round trip.
//             backward: K, its transpose and V of 128 keys, 192 KiB at D = 128 in fp32, stay in L2 beside the
//             four copies of a super-block's Q and dO, 512 KiB.
// round_trip  P of one round trip is 32 KiB of 4-byte units; less means more loads and stores of O (128:
//             −1 %). The tile unit stores C at the cost of 16 multiplications: 256 keys amortise them.
//             backward: its keys.
// splits      the most that one head is cut into: 16 tasks where a problem has a single one. More would only
//             help one head on more than 16 cores, at 16 records of memory each.
// integer     takes its keys from its definition (tiles of 1024) and no splits; only the rows are a choice.
struct Entry {
  const char* arch;  // prefix of the kernel row's arch
  Algorithm algorithm;
  MachineRow row;
};
constexpr Entry kTable[] = {
    {"amx",
     Algorithm::forward,
     {"amx forward", {.rows = 1024, .keys = 1024, .round_trip = 256, .splits = 16}}},
    {"", Algorithm::forward, {"forward", {.rows = 512, .keys = 512, .round_trip = 256, .splits = 16}}},
    {"", Algorithm::decode, {"decode", {.rows = 8, .keys = 1024, .round_trip = 256, .splits = 16}}},
    {"", Algorithm::integer, {"integer", {.rows = 512, .keys = 1024, .round_trip = 1024, .splits = 1}}},
    {"", Algorithm::backward, {"backward", {.rows = 256, .keys = 128, .round_trip = 128, .splits = 16}}},
};

// bf16: one product by whatever multiplies bf16. fp16 and fp32: on the tile unit as exact sums of bf16
// planes, 4 and 6 products at 8 to 16 times the rate of FMA; VDPBF16PS is at most twice as fast as FMA, so
// they stay FMA.
struct RouteEntry {
  const char* arch;  // prefix
  Dtype dtype;
  Route route;
};
constexpr RouteEntry kRoutes[] = {
    {"amx", Dtype::bfloat16, {"bf16 tiles", "amx", 1}},
    {"amx", Dtype::float16, {"bf16 tiles, two exact planes", "amx", 4}},
    {"amx", Dtype::float32, {"bf16 tiles, three planes to 2^-24", "amx", 6}},
    {"amx", Dtype::int8, {"int8 tiles", "", 1}},
    {"avx512_bf16", Dtype::bfloat16, {"VDPBF16PS", "vdpbf16ps", 1}},
    {"avx512", Dtype::int8, {"VPDPBUSD", "", 1}},
    {"avx2", Dtype::int8, {"VPMADDWD", "", 1}},
    {"", Dtype::int8, {"integers, one by one", "", 1}},
};

bool begins(const char* text, const char* prefix) {
  return std::strncmp(text, prefix, std::strlen(prefix)) == 0;
}

}  // namespace

MachineRow machine_row(const kernels::Row& row, std::int64_t depth, std::int64_t value_depth) {
  if (const char* machine = environment("FUSION_ATTENTION_MACHINE")) {
    if (std::strcmp(machine, kTiny.name) == 0) {
      MachineRow tiny = kTiny;
      if (row.algorithm == Algorithm::integer) tiny.blocking.splits = 1;
      return tiny;
    }
    warn_ignored("FUSION_ATTENTION_MACHINE", machine, kTiny.name);
  }
  for (const Entry& entry : kTable) {
    if (entry.algorithm != row.algorithm || !begins(row.arch, entry.arch)) continue;
    MachineRow found = entry.row;
    kernels::Blocking& blocking = found.blocking;
    // The table is for D + Dv = 256; deeper heads get fewer rows and keys, for the same bytes in L2.
    for (std::int64_t width = depth + value_depth; width > 256 && blocking.rows > 64; width /= 2) {
      blocking.rows = std::max(64, blocking.rows / 2);
      blocking.keys = std::max(blocking.round_trip, blocking.keys / 2);
    }
    return found;
  }
  return kTiny;
}

Route route_of(const kernels::Row& row) {
  const bool emulated = std::strcmp(row.arch, "amx_emulated") == 0;
  // Decode multiplies rows where they lie: pairs of bf16 would have to be packed.
  const bool packed = row.algorithm != Algorithm::decode;
  for (const RouteEntry& entry : kRoutes) {
    if (!packed || entry.dtype != row.dtype || !begins(row.arch, entry.arch)) continue;
    Route route = entry.route;
    if (emulated) route.roof = "";
    if (row.dtype == Dtype::int8 && begins(row.arch, "avx512") && !arch::has_vnni()) route.text = "VPMADDWD";
    return route;
  }
  const bool avx2 = std::strcmp(row.arch, "avx2") == 0;
  const bool plain = std::strcmp(row.arch, "scalar") == 0 || emulated;
  return {row.dtype == Dtype::float32 ? "fp32 multiply-add" : "widened to fp32, multiply-add",
          plain  ? ""
          : avx2 ? "fma_ymm"
                 : "fma",
          1};
}

}  // namespace fusion_attention::plan
