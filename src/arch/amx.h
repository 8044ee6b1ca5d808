// The block verb on a tile unit: four C tiles of 16 × 16 floats, two A and two B tiles of 16 rows × 64 bytes.
// Amx<Unit, Vectors> takes everything but the multiplication from Vectors; Unit is the real tile unit (this
// file, x86-64) or the emulated one (amx_emulated.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "arch/registers.h"  // Pace
#include "arch/tile.h"
#include "base/inline.h"

namespace fusion_attention::arch {

// The 64 bytes of LDTILECFG.
struct alignas(64) TileConfig {
  std::uint8_t palette = 0;  // 0: no configuration is loaded
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {};
  std::uint8_t rows[16] = {};
};

// Which tile register holds what, in a 2 × 2 arrangement of C.
enum Tile : int {
  kUpperLeft = 0,   // C, rows 0 … 15, columns 0 … 15
  kUpperRight = 1,  // C, rows 0 … 15, columns 16 … 31
  kLowerLeft = 2,
  kLowerRight = 3,
  kUpperA = 4,  // A, rows 0 … 15
  kLowerA = 5,
  kLeftB = 6,  // B, columns 0 … 15
  kRightB = 7,
};

template <class Unit, class Vectors>
struct Amx : Vectors {
  static constexpr const char* kName = Unit::kName;

  template <class Format, bool Accumulate, int Columns, class Hook>
  FA_INLINE static void block(const Operands& o, float* c, Hook&& hook) {
    if constexpr (Format::kUnitElements == 1)  // floats
      Vectors::template block<Format, Accumulate, Columns>(o, c, hook);
    else
      block_in_tiles<Format, Accumulate, Columns>(o, c, hook);
  }

  // Another library's configuration of this thread survives a task of ours; its tile data does not.
  FA_INLINE static void begin() {
    Unit::store_config(&callers_config_);
    TileConfig ours;
    ours.palette = 1;
    for (int tile = 0; tile < 8; ++tile) {
      ours.row_bytes[tile] = kLine;
      ours.rows[tile] = kTileRows;
    }
    Unit::load_config(&ours);
  }
  FA_INLINE static void end() {
    if (callers_config_.palette != 0)
      Unit::load_config(&callers_config_);
    else
      Unit::release();
  }

 private:
  static constexpr int kTileRows = 16;
  static inline constinit thread_local TileConfig callers_config_{};

  // Depth is rounded up to whole groups: a tile multiplication takes 16 units, and padding is zero. A step is
  // one group of one pair of planes; the pairs of a group follow each other while its lines are in L1.
  template <class Format, bool Accumulate, int Columns, class Hook>
  FA_INLINE static void block_in_tiles(const Operands& o, float* c, Hook& hook) {
    const int groups = (o.units + kGroupUnits - 1) / kGroupUnits, strips = o.rows > kTileRows ? 2 : 1;
    constexpr int kPairs = Format::kPlanes == 2 ? 4 : Format::kPlanes * (Format::kPlanes + 1) / 2;
    Pace pace(groups * kPairs * strips);
    c_tiles<Columns>(strips, [&]<int T>(int at) {
      if constexpr (Accumulate)
        Unit::template load<T>(c + at);
      else
        Unit::template zero<T>();
    });
    const std::byte *a = o.a, *b = o.b;
    for (int group = 0; group < groups; ++group, a += kGroupBytes, b += kGroupBytes)
      for (int i = 0; i < Format::kPlanes; ++i)
        for (int j = 0; j < Format::kPlanes && i + j <= Format::kOrder; ++j)
          for (int strip = 0; strip < strips; ++strip) {
            multiply<Format, Columns>(strip, a + i * o.a_plane, b + j * o.b_plane);
            pace.step(hook);
          }
    c_tiles<Columns>(strips, [&]<int T>(int at) { Unit::template store<T>(c + at); });
  }

  // visit<T>(offset in C) for the C tiles in use.
  template <int Columns, class Visit>
  FA_INLINE static void c_tiles(int strips, Visit visit) {
    visit.template operator()<kUpperLeft>(c_offset(0, 0));
    if constexpr (Columns == 2) visit.template operator()<kUpperRight>(c_offset(0, 1));
    if (strips == 1) return;
    visit.template operator()<kLowerLeft>(c_offset(kTileRows, 0));
    if constexpr (Columns == 2) visit.template operator()<kLowerRight>(c_offset(kTileRows, 1));
  }

  template <class Format, int C, int A, int B>
  FA_INLINE static void tiles() {
    if constexpr (IntegerFormat<Format>) {
      static_assert(std::is_same_v<Format, Bytes>);
      Unit::template multiply_bytes<C, A, B>();
    } else {
      Unit::template multiply<C, A, B>();
    }
  }

  // One row of C tiles. B is read for the upper one and kept for the lower. It passes through once per block
  // of C, so its loads carry the streaming hint.
  template <class Format, int Columns>
  FA_INLINE static void multiply(int strip, const std::byte* a, const std::byte* b) {
    if (strip == 0) {
      Unit::template load_stream<kLeftB>(b);
      Unit::template load<kUpperA>(a);
      tiles<Format, kUpperLeft, kUpperA, kLeftB>();
      if constexpr (Columns == 2) {
        Unit::template load_stream<kRightB>(b + kGroupBytes / 2);
        tiles<Format, kUpperRight, kUpperA, kRightB>();
      }
    } else {
      Unit::template load<kLowerA>(a + kTileRows * kLine);
      tiles<Format, kLowerLeft, kLowerA, kLeftB>();
      if constexpr (Columns == 2) tiles<Format, kLowerRight, kLowerA, kRightB>();
    }
  }
};

#if defined(__x86_64__)

// The instructions themselves, as text: no compiler flag, and a memory clobber that the intrinsics of g++ 12
// lack, so that a P just stored by vectors is seen by the tile load that follows. Lines are 64 bytes apart.
struct TileUnit {
  static constexpr const char* kName = "amx";

  FA_INLINE static void load_config(const TileConfig* config) {
    asm volatile("ldtilecfg %0" : : "m"(*config) : "memory");
  }
  FA_INLINE static void store_config(TileConfig* config) {
    asm volatile("sttilecfg %0" : "=m"(*config) : : "memory");
  }
  FA_INLINE static void release() { asm volatile("tilerelease" : : : "memory"); }

  template <int T>
  FA_INLINE static void load(const void* p) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(p), "r"(kLine), "i"(T) : "memory");
  }
  template <int T>
  FA_INLINE static void load_stream(const void* p) {
    asm volatile("tileloaddt1 (%0,%1,1), %%tmm%c2" : : "r"(p), "r"(kLine), "i"(T) : "memory");
  }
  template <int T>
  FA_INLINE static void store(void* p) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(p), "r"(kLine), "i"(T) : "memory");
  }
  template <int T>
  FA_INLINE static void zero() {
    asm volatile("tilezero %%tmm%c0" : : "i"(T));
  }
  template <int C, int A, int B>
  FA_INLINE static void multiply() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(C), "i"(A), "i"(B));
  }
  template <int C, int A, int B>
  FA_INLINE static void multiply_bytes() {
    asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(C), "i"(A), "i"(B));
  }
};

#endif

}  // namespace fusion_attention::arch
