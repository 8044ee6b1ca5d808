// The verbs of an arch as plain function pointers on arrays. Each arch's table is compiled in a file of its
// own with the flags of its instruction set; the tests themselves, and the Scalar they compare with, are not.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "arch/tile.h"
#include "base/half.h"
#include "base/int4.h"
#include "kernels/exp_half.h"

namespace fusion_attention::arch {

enum BlockFormat { kFp32, kPlanes1, kPlanes2, kPlanes3, kBlockFormats };
enum IntegerBlock { kWords, kBytes, kRaisedBytes, kIntegerBlocks };

struct VerbTable {
  using Unary = void (*)(const float* a, float* r);
  using Binary = void (*)(const float* a, const float* b, float* r);
  using Ternary = void (*)(const float* a, const float* b, const float* c, float* r);
  template <class T>
  struct Memory {
    void (*load)(const T* p, float* r);
    void (*load_n)(const T* p, int n, float* r);
    void (*store)(T* p, const float* a);
    void (*store_n)(T* p, const float* a, int n);
  };
  template <class T>
  struct Integers {
    void (*load)(const T* p, float* r);
    void (*load_n)(const T* p, int n, float* r);
  };
  // calls: null for NoHook, otherwise each hook appends its row; calls[32] counts.
  using Block = void (*)(const Operands& o, float* c, int* calls);

  const char* name;
  void (*set)(float x, float* r);
  Memory<float> f32;
  Memory<bf16> b16;
  Memory<f16> h16;
  Integers<std::int8_t> i8;
  Integers<int4_pair> i4;
  Binary add, sub, mul, max;
  Ternary fma, fms;
  Unary sqrt, exp2_3, exp2_5;
  std::uint16_t (*greater)(const float* a, const float* b);
  std::uint16_t (*unordered)(const float* a);
  Unary from_int32, exp_half;
  Binary power;
  void (*store_int8)(std::int8_t* p, const float* a);
  void (*select)(std::uint16_t m, const float* a, const float* b, float* r);
  std::uint16_t (*bytes)(const std::uint8_t* p, int n);
  float (*reduce_max)(const float* a);
  float (*reduce_add)(const float* a);
  void (*sums)(const float* square, float* out);
  void (*transpose)(float* square);
  Unary truncate_bf16, round_bf16, round_bf16_number, round_fp16;
  Binary interleave;
  void (*store_pairs)(void* p, const float* a, const float* b);
  void (*philox)(const std::uint64_t (&counter)[kLanes], std::uint64_t high, std::uint64_t seed,
                 std::uint32_t threshold, std::uint16_t (&kept)[4]);
  Block block[kBlockFormats][2][2];  // [format][accumulate][columns - 1]; null where the arch has none
  Block integers[kIntegerBlocks][2][2];
  void (*begin)();
  void (*end)();
};

template <class Arch, class T>
constexpr VerbTable::Memory<T> memory_verbs() {
  return {[](const T* p, float* r) { Arch::store(r, Arch::load(p)); },
          [](const T* p, int n, float* r) { Arch::store(r, Arch::load(p, n)); },
          [](T* p, const float* a) { Arch::store(p, Arch::load(a)); },
          [](T* p, const float* a, int n) { Arch::store(p, Arch::load(a), n); }};
}

template <class Arch, class T>
constexpr VerbTable::Integers<T> integer_verbs() {
  return {[](const T* p, float* r) { Arch::store(r, Arch::load(p)); },
          [](const T* p, int n, float* r) { Arch::store(r, Arch::load(p, n)); }};
}

template <class Arch, class Format, bool Accumulate, int Columns>
void block_verb(const Operands& o, float* c, int* calls) {
  if (calls == nullptr)
    Arch::template block<Format, Accumulate, Columns>(o, c, NoHook{});
  else
    Arch::template block<Format, Accumulate, Columns>(o, c, [&](int row) {
      if (calls[kBlock] < kBlock) calls[calls[kBlock]] = row;
      ++calls[kBlock];
    });
}

template <class Arch, class Format>
constexpr void set_blocks(VerbTable::Block (&block)[2][2]) {
  block[0][0] = block_verb<Arch, Format, false, 1>;
  block[0][1] = block_verb<Arch, Format, false, 2>;
  block[1][0] = block_verb<Arch, Format, true, 1>;
  block[1][1] = block_verb<Arch, Format, true, 2>;
}

template <class Format>
inline constexpr IntegerBlock kIntegerBlock = std::is_same_v<Format, Words>   ? kWords
                                              : std::is_same_v<Format, Bytes> ? kBytes
                                                                              : kRaisedBytes;

template <class Arch, bool TakesFp32, int MostPlanes, class... Integers>
constexpr VerbTable verb_table() {
  VerbTable t = {
      Arch::kName,
      [](float x, float* r) { Arch::store(r, Arch::set(x)); },
      memory_verbs<Arch, float>(),
      memory_verbs<Arch, bf16>(),
      memory_verbs<Arch, f16>(),
      integer_verbs<Arch, std::int8_t>(),
      integer_verbs<Arch, int4_pair>(),
      [](const float* a, const float* b, float* r) {
        Arch::store(r, Arch::add(Arch::load(a), Arch::load(b)));
      },
      [](const float* a, const float* b, float* r) {
        Arch::store(r, Arch::sub(Arch::load(a), Arch::load(b)));
      },
      [](const float* a, const float* b, float* r) {
        Arch::store(r, Arch::mul(Arch::load(a), Arch::load(b)));
      },
      [](const float* a, const float* b, float* r) {
        Arch::store(r, Arch::max(Arch::load(a), Arch::load(b)));
      },
      [](const float* a, const float* b, const float* c, float* r) {
        Arch::store(r, Arch::fma(Arch::load(a), Arch::load(b), Arch::load(c)));
      },
      [](const float* a, const float* b, const float* c, float* r) {
        Arch::store(r, Arch::fms(Arch::load(a), Arch::load(b), Arch::load(c)));
      },
      [](const float* a, float* r) { Arch::store(r, Arch::sqrt(Arch::load(a))); },
      [](const float* a, float* r) { Arch::store(r, Arch::template exp2<3>(Arch::load(a))); },
      [](const float* a, float* r) { Arch::store(r, Arch::template exp2<5>(Arch::load(a))); },
      [](const float* a, const float* b) -> std::uint16_t {
        return Arch::greater(Arch::load(a), Arch::load(b));
      },
      [](const float* a) -> std::uint16_t { return Arch::unordered(Arch::load(a)); },
      [](const float* a, float* r) { Arch::store(r, Arch::from_int32(Arch::load(a))); },
      [](const float* a, float* r) { Arch::store(r, kernels::exp_half<Arch>(Arch::load(a))); },
      [](const float* a, const float* b, float* r) {
        Arch::store(r, Arch::power(Arch::load(a), Arch::load(b)));
      },
      [](std::int8_t* p, const float* a) { Arch::store(p, Arch::load(a)); },
      [](std::uint16_t m, const float* a, const float* b, float* r) {
        Arch::store(r, Arch::select(m, Arch::load(a), Arch::load(b)));
      },
      [](const std::uint8_t* p, int n) -> std::uint16_t { return Arch::bytes(p, n); },
      [](const float* a) { return Arch::reduce_max(Arch::load(a)); },
      [](const float* a) { return Arch::reduce_add(Arch::load(a)); },
      [](const float* square, float* out) {
        typename Arch::vec rows[kLanes];
        for (int i = 0; i < kLanes; ++i) rows[i] = Arch::load(square + i * kLanes);
        Arch::store(out, Arch::sums(rows));
      },
      [](float* square) {
        typename Arch::vec rows[kLanes];
        for (int i = 0; i < kLanes; ++i) rows[i] = Arch::load(square + i * kLanes);
        Arch::transpose(rows);
        for (int i = 0; i < kLanes; ++i) Arch::store(square + i * kLanes, rows[i]);
      },
      [](const float* a, float* r) { Arch::store(r, Arch::truncate_bf16(Arch::load(a))); },
      [](const float* a, float* r) { Arch::store(r, Arch::round_bf16(Arch::load(a))); },
      [](const float* a, float* r) { Arch::store(r, Arch::round_bf16_number(Arch::load(a))); },
      [](const float* a, float* r) { Arch::store(r, Arch::round_fp16(Arch::load(a))); },
      [](const float* a, const float* b, float* r) {
        Arch::store(r, Arch::interleave(Arch::load(a), Arch::load(b)));
      },
      [](void* p, const float* a, const float* b) { Arch::store_pairs(p, Arch::load(a), Arch::load(b)); },
      [](const std::uint64_t(&counter)[kLanes], std::uint64_t high, std::uint64_t seed,
         std::uint32_t threshold,
         std::uint16_t(&kept)[4]) { Arch::philox(counter, high, seed, threshold, kept); },
      {},
      {},
      [] { Arch::begin(); },
      [] { Arch::end(); },
  };
  if constexpr (TakesFp32) set_blocks<Arch, Fp32>(t.block[kFp32]);
  if constexpr (MostPlanes >= 1) set_blocks<Arch, Bf16Planes<1>>(t.block[kPlanes1]);
  if constexpr (MostPlanes >= 2) set_blocks<Arch, Bf16Planes<2>>(t.block[kPlanes2]);
  if constexpr (MostPlanes >= 3) set_blocks<Arch, Bf16Planes<3>>(t.block[kPlanes3]);
  (set_blocks<Arch, Integers>(t.integers[kIntegerBlock<Integers>]), ...);
  return t;
}

}  // namespace fusion_attention::arch
