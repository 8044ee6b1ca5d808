// A tile unit in plain C++, after the published pseudo-code of the instructions, so that every machine runs
// the AMX algorithms: shapes come from the configuration, each product of a pair keeps its own running sum,
// and denormals count as zero on the way in and out, whatever the floating-point mode is.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "arch/amx.h"
#include "arch/scalar.h"
#include "arch/tile.h"
#include "base/half.h"
#include "base/inline.h"

namespace fusion_attention::arch {

struct TileState {
  TileConfig config;
  std::byte tile[8][16][kLine] = {};
};

struct EmulatedTileUnit {
  static constexpr const char* kName = "amx_emulated";

  FA_INLINE static void load_config(const TileConfig* config) {
    release();
    state_.config = *config;
  }
  FA_INLINE static void store_config(TileConfig* config) { *config = state_.config; }
  FA_INLINE static void release() { state_ = {}; }

  template <int T>
  FA_INLINE static void load(const void* p) {
    zero<T>();
    for (int row = 0; row < state_.config.rows[T]; ++row)
      std::memcpy(state_.tile[T][row], static_cast<const std::byte*>(p) + row * kLine,
                  state_.config.row_bytes[T]);
  }
  template <int T>
  FA_INLINE static void load_stream(const void* p) {
    load<T>(p);
  }
  template <int T>
  FA_INLINE static void store(void* p) {
    for (int row = 0; row < state_.config.rows[T]; ++row)
      std::memcpy(static_cast<std::byte*>(p) + row * kLine, state_.tile[T][row], state_.config.row_bytes[T]);
  }
  template <int T>
  FA_INLINE static void zero() {
    std::memset(state_.tile[T], 0, sizeof state_.tile[T]);
  }

  // TDPBF16PS: rows and columns of C, depth the units of a row of A.
  template <int C, int A, int B>
  FA_INLINE static void multiply() {
    const int columns = state_.config.row_bytes[C] / 4, depth = state_.config.row_bytes[A] / 4;
    for (int row = 0; row < state_.config.rows[C]; ++row) {
      float even[kLanes] = {}, odd[kLanes] = {};
      for (int unit = 0; unit < depth; ++unit) {
        bf16 a[2], b[2 * kLanes];
        std::memcpy(a, state_.tile[A][row] + 4 * unit, sizeof a);
        std::memcpy(b, state_.tile[B][unit], sizeof b);
        for (int column = 0; column < columns; ++column) {
          even[column] = fma(flush(to_float(a[0])), flush(to_float(b[2 * column])), even[column]);
          odd[column] = fma(flush(to_float(a[1])), flush(to_float(b[2 * column + 1])), odd[column]);
        }
      }
      float c[kLanes];
      std::memcpy(c, state_.tile[C][row], sizeof c);
      for (int column = 0; column < columns; ++column)
        c[column] = flush(flush(c[column]) + flush(even[column] + odd[column]));
      std::memset(state_.tile[C][row], 0, kLine);
      std::memcpy(state_.tile[C][row], c, state_.config.row_bytes[C]);
    }
  }

  // TDPBSSD: quads of int8 into int32.
  template <int C, int A, int B>
  FA_INLINE static void multiply_bytes() {
    const int columns = state_.config.row_bytes[C] / 4, depth = state_.config.row_bytes[A] / 4;
    for (int row = 0; row < state_.config.rows[C]; ++row) {
      std::int32_t c[kLanes];
      std::memcpy(c, state_.tile[C][row], sizeof c);
      for (int unit = 0; unit < depth; ++unit) {
        std::int8_t a[4], b[4 * kLanes];
        std::memcpy(a, state_.tile[A][row] + 4 * unit, sizeof a);
        std::memcpy(b, state_.tile[B][unit], sizeof b);
        for (int column = 0; column < columns; ++column)
          for (int i = 0; i < 4; ++i) c[column] += std::int32_t{a[i]} * b[4 * column + i];
      }
      std::memset(state_.tile[C][row], 0, kLine);
      std::memcpy(state_.tile[C][row], c, state_.config.row_bytes[C]);
    }
  }

 private:
  static inline constinit thread_local TileState state_{};

  static constexpr float kLeastNormal = 0x1p-126f;

  FA_INLINE static float flush(float x) { return std::fabs(x) < kLeastNormal ? std::copysign(0.0f, x) : x; }

  // Rounded once, and flushed if that rounding, with unlimited exponents, stays below the least normal
  // number: below 2^-126 − 2^-151. (Rounding to a denormal first would make a normal number of the last
  // 2^-151.) The product is exact in double, and so is a sum that near to 2^-126 unless it is far from the
  // limit.
  FA_INLINE static float fma(float a, float b, float c) {
    const double product = static_cast<double>(a) * b;
    const float sum = std::fma(a, b, c);
    if (std::fabs(sum) > kLeastNormal) return sum;
    return std::fabs(product + c) < 0x1p-126 - 0x1p-151 ? std::copysign(0.0f, sum) : sum;
  }
};

using AmxEmulated = Amx<EmulatedTileUnit, Scalar>;

}  // namespace fusion_attention::arch
