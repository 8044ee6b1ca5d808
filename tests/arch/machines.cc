#include "arch/machines.h"

#include <cstdio>
#include <cstring>

#include "arch/amx_emulated.h"
#include "arch/cpu.h"
#include "arch/scalar.h"
#include "support/probe.h"

namespace fusion_attention::arch {

constinit const VerbTable verbs_scalar = verb_table<Scalar, true, 3, Words, Bytes, RaisedBytes>();
static constinit const VerbTable verbs_amx_emulated = verb_table<AmxEmulated, true, 3, Bytes>();

#if FA_HAVE_AVX2
extern const VerbTable verbs_avx2;
#endif
#if FA_HAVE_AVX512
extern const VerbTable verbs_avx512;
#endif
#if FA_HAVE_AVX512_BF16
extern const VerbTable verbs_avx512_bf16;
#endif
#if FA_HAVE_AMX
extern const VerbTable verbs_amx;
#endif

// Something of everything the flags of the table's file allow.
[[maybe_unused]] static void try_all(const VerbTable& verbs) {
  alignas(64) static std::byte a[kGroupBytes], b[kGroupBytes];
  alignas(64) static float c[kBlockFloats];
  verbs.begin();
  for (const auto& block : verbs.block)
    if (block[0][1] != nullptr) block[0][1]({a, b, 0, 0, kGroupUnits}, c, nullptr);
  verbs.end();
  verbs.exp2_3(c, c);
  verbs.store_pairs(a, c, c);
  verbs.h16.store(reinterpret_cast<f16*>(a), c);
  verbs.b16.load_n(reinterpret_cast<const bf16*>(a), 3, c);
}

[[maybe_unused]] static Machine native(const VerbTable& verbs, Isa isa) {
  const bool announced = detected(isa).usable;
  const bool runs = testing::executes([&] { try_all(verbs); });
  const char* how = announced ? "natively" : "natively, though CPUID does not announce it";
  return {&verbs, runs ? how : "not at all: its instructions do not execute here", runs};
}

static std::vector<Machine> detect() {
  std::vector<Machine> all = {{&verbs_amx_emulated, "emulated", true}};
#if FA_HAVE_AVX2
  all.push_back(native(verbs_avx2, Isa::avx2));
#endif
#if FA_HAVE_AVX512
  all.push_back(native(verbs_avx512, Isa::avx512));
#endif
#if FA_HAVE_AVX512_BF16
  all.push_back(native(verbs_avx512_bf16, Isa::avx512_bf16));
#endif
#if FA_HAVE_AMX
  all.push_back(native(verbs_amx, Isa::amx));
#endif
  for (const Machine& m : all) std::printf("[ arch     ] %s ran %s\n", m.verbs->name, m.how.c_str());
  return all;
}

const std::vector<Machine>& machines() {
  static const std::vector<Machine> all = detect();
  return all;
}

const VerbTable* find(const char* name) {
  for (const Machine& m : machines())
    if (m.runs && std::strcmp(m.verbs->name, name) == 0) return m.verbs;
  return nullptr;
}

}  // namespace fusion_attention::arch
