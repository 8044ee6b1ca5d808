// The vocabulary of tile.h in plain loops: built everywhere, and what every other arch is tested against.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "arch/philox.h"
#include "arch/tile.h"
#include "base/half.h"
#include "base/inline.h"
#include "base/int4.h"

namespace fusion_attention::arch {

// exp2(x) = p(x − floor x) · 2^floor x. Relative minimax coefficients on [0, 1), lowest power first.
template <int Degree>
inline constexpr float kExp2[Degree + 1] = {};
template <>
inline constexpr float kExp2<3>[4] = {0.999925219f, 0.69583354f, 0.226067155f, 0.0780245227f};
template <>
inline constexpr float kExp2<5>[6] = {0.999999925f,  0.693153073f,   0.240153617f,
                                      0.0558263181f, 0.00898934002f, 0.0018775767f};

// One rounding where the target has an instruction for it.
FA_INLINE float multiply_add(float a, float b, float c) {
#ifdef __FP_FAST_FMAF
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

struct Scalar {
  static constexpr const char* kName = "scalar";

  struct vec {
    float lane[kLanes];
  };
  using mask = std::uint16_t;

  template <class F>
  FA_INLINE static vec each(F f) {
    vec r;
    for (int i = 0; i < kLanes; ++i) r.lane[i] = f(i);
    return r;
  }
  template <class F>
  FA_INLINE static mask bits(int n, F f) {
    unsigned m = 0;
    for (int i = 0; i < n; ++i) m |= static_cast<unsigned>(f(i)) << i;
    return static_cast<mask>(m);
  }

  FA_INLINE static vec zero() { return set(0.0f); }
  FA_INLINE static vec set(float x) {
    return each([&](int) { return x; });
  }
  template <class T>
  FA_INLINE static vec load(const T* p) {
    return each([&](int i) { return to_float(p[i]); });
  }
  template <class T>
  FA_INLINE static vec load(const T* p, int n) {
    return each([&](int i) { return i < n ? to_float(p[i]) : 0.0f; });
  }
  FA_INLINE static vec load(const std::int8_t* p) { return load(p, kLanes); }
  FA_INLINE static vec load(const std::int8_t* p, int n) {
    return each([&](int i) { return i < n ? static_cast<float>(p[i]) : 0.0f; });
  }
  FA_INLINE static vec load(const int4_pair* p) { return load(p, kLanes); }
  FA_INLINE static vec load(const int4_pair* p, int n) {
    return each([&](int i) {
      if (i >= n) return 0.0f;
      return static_cast<float>(i % 2 ? high_of(p[i / 2]) : low_of(p[i / 2]));
    });
  }
  template <class T>
  FA_INLINE static void store(T* p, vec a) {
    store(p, a, kLanes);
  }
  template <class T>
  FA_INLINE static void store(T* p, vec a, int n) {
    for (int i = 0; i < n; ++i) p[i] = from_float<T>(a.lane[i]);
  }

  FA_INLINE static void store(std::int8_t* p, vec a) {
    constexpr float kWhole = 0x1.8p23f;  // plus and minus it: ulp 1
    for (int i = 0; i < kLanes; ++i) {
      const float x = a.lane[i] < -128.0f ? -128.0f : a.lane[i] > 127.0f ? 127.0f : a.lane[i];
      p[i] = static_cast<std::int8_t>(x + kWhole - kWhole);
    }
  }
  FA_INLINE static vec from_int32(vec a) {
    return each([&](int i) { return static_cast<float>(std::bit_cast<std::int32_t>(a.lane[i])); });
  }

  FA_INLINE static vec add(vec a, vec b) {
    return each([&](int i) { return a.lane[i] + b.lane[i]; });
  }
  FA_INLINE static vec sub(vec a, vec b) {
    return each([&](int i) { return a.lane[i] - b.lane[i]; });
  }
  FA_INLINE static vec mul(vec a, vec b) {
    return each([&](int i) { return a.lane[i] * b.lane[i]; });
  }
  FA_INLINE static vec max(vec a, vec b) {
    return each([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  FA_INLINE static vec fma(vec a, vec b, vec c) {
    return each([&](int i) { return multiply_add(a.lane[i], b.lane[i], c.lane[i]); });
  }
  FA_INLINE static vec fms(vec a, vec b, vec c) {
    return each([&](int i) { return multiply_add(a.lane[i], b.lane[i], -c.lane[i]); });
  }
  FA_INLINE static vec sqrt(vec a) {
    return each([&](int i) { return __builtin_sqrtf(a.lane[i]); });
  }

  template <int Degree>
  FA_INLINE static vec exp2(vec a) {
    return each([&](int i) {
      const float x = a.lane[i];
      if (!(x < 128.0f)) return x;  // a NaN, or what stands beside one in its row and may become anything
      if (x <= -127.0f) return 0.0f;
      const float whole = std::floor(x), r = x - whole;
      float p = kExp2<Degree>[Degree];
      for (int k = Degree - 1; k >= 0; --k) p = p * r + kExp2<Degree>[k];
      const auto power = static_cast<std::uint32_t>(static_cast<int>(whole) + 127) << 23;
      return p * std::bit_cast<float>(power);
    });
  }

  FA_INLINE static vec power(vec p, vec k) {
    return each([&](int i) {
      const auto biased = static_cast<std::uint32_t>(static_cast<int>(k.lane[i]) + 127);
      return p.lane[i] * std::bit_cast<float>(biased << 23);
    });
  }

  FA_INLINE static mask greater(vec a, vec b) {
    return bits(kLanes, [&](int i) { return a.lane[i] > b.lane[i]; });
  }
  FA_INLINE static mask unordered(vec a) {
    return bits(kLanes, [&](int i) {
      return (std::bit_cast<std::uint32_t>(a.lane[i]) & 0x7f800000u) == 0x7f800000u;
    });
  }
  FA_INLINE static vec select(mask m, vec a, vec b) {
    return each([&](int i) { return m >> i & 1 ? a.lane[i] : b.lane[i]; });
  }
  FA_INLINE static mask bytes(const std::uint8_t* p, int n) {
    return bits(n, [&](int i) { return p[i] != 0; });
  }
  FA_INLINE static float reduce_max(vec a) {
    for (int half = kLanes / 2; half > 0; half /= 2)
      for (int i = 0; i < half; ++i) a.lane[i] = a.lane[i] > a.lane[i + half] ? a.lane[i] : a.lane[i + half];
    return a.lane[0];
  }
  FA_INLINE static float reduce_add(vec a) {
    for (int half = kLanes / 2; half > 0; half /= 2)
      for (int i = 0; i < half; ++i) a.lane[i] += a.lane[i + half];
    return a.lane[0];
  }

  FA_INLINE static vec sums(const vec (&rows)[kLanes]) {
    return each([&](int i) { return reduce_add(rows[i]); });
  }
  FA_INLINE static void transpose(vec (&rows)[kLanes]) {
    for (int i = 0; i < kLanes; ++i)
      for (int j = 0; j < i; ++j) {
        const auto upper = std::bit_cast<std::uint32_t>(rows[j].lane[i]);
        const auto lower = std::bit_cast<std::uint32_t>(rows[i].lane[j]);
        rows[j].lane[i] = std::bit_cast<float>(lower);
        rows[i].lane[j] = std::bit_cast<float>(upper);
      }
  }
  FA_INLINE static vec truncate_bf16(vec a) {
    return each([&](int i) {
      std::uint32_t u = std::bit_cast<std::uint32_t>(a.lane[i]);
      if ((u & 0x7fffffffu) > 0x7f800000u)
        u |= 0x400000u;  // a NaN whose payload sits low must not become inf
      return std::bit_cast<float>(u & 0xffff0000u);
    });
  }
  FA_INLINE static vec round_bf16(vec a) {
    return each([&](int i) { return to_float(from_float<bf16>(a.lane[i])); });
  }
  FA_INLINE static vec round_bf16_number(vec a) {
    return each([&](int i) {
      const std::uint32_t u = std::bit_cast<std::uint32_t>(a.lane[i]);
      return std::bit_cast<float>((u + 0x7fffu + (u >> 16 & 1)) & 0xffff0000u);
    });
  }
  FA_INLINE static vec round_fp16(vec a) {
    return each([&](int i) { return to_float(from_float<f16>(a.lane[i])); });
  }
  FA_INLINE static vec interleave(vec lo, vec hi) {
    return each([&](int i) {
      const std::uint32_t l = std::bit_cast<std::uint32_t>(lo.lane[i]),
                          h = std::bit_cast<std::uint32_t>(hi.lane[i]);
      return std::bit_cast<float>((h & 0xffff0000u) | (l >> 16));
    });
  }
  FA_INLINE static void store_pairs(void* p, vec a, vec b) {
    store(static_cast<bf16*>(p), a);
    store(static_cast<bf16*>(p) + kLanes, b);
  }

  template <class Format, bool Accumulate, int Columns, class Hook>
  FA_INLINE static void block(const Operands& o, float* c, Hook&& hook) {
    constexpr bool kExact = IntegerFormat<Format>;  // a float C joins at the end: registers.h
    for (int row = 0; row < kBlock; ++row) {
      for (int half = 0; half < Columns; ++half) {
        float* out = c + c_offset(row, half);
        vec sum = Accumulate && kExact ? load(out) : zero();
        for (int i = 0; i < Format::kPlanes; ++i)
          for (int j = 0; j < Format::kPlanes && i + j <= Format::kOrder; ++j)
            for (int u = 0; u < o.units; ++u) {
              const std::size_t group = static_cast<std::size_t>(u / kGroupUnits) * kGroupBytes;
              const std::byte* a = o.a + i * o.a_plane + group + row * kLine + u % kGroupUnits * 4;
              const std::byte* b =
                  o.b + j * o.b_plane + group + half * (kGroupBytes / 2) + u % kGroupUnits * kLine;
              sum = multiply_unit<Format>(sum, a, b);
            }
        store(out, Accumulate && !kExact ? add(load(out), sum) : sum);
      }
      hook(row);
    }
  }

  FA_INLINE static void philox(const std::uint64_t (&counter)[kLanes], std::uint64_t high, std::uint64_t seed,
                               std::uint32_t threshold, mask (&kept)[4]) {
    kept[0] = kept[1] = kept[2] = kept[3] = 0;
    for (int i = 0; i < kLanes; ++i) {
      std::uint32_t words[4];
      Philox::words(counter[i], high, seed, words);
      for (int w = 0; w < 4; ++w)
        kept[w] = static_cast<mask>(kept[w] | ((words[w] & Philox::kFraction) >= threshold) << i);
    }
  }

  FA_INLINE static void begin() {}
  FA_INLINE static void end() {}

 private:
  // c + one unit of A times one line of B; of a bf16 pair, the odd element first, each step rounded:
  // VDPBF16PS.
  template <class Format>
  FA_INLINE static vec multiply_unit(vec c, const std::byte* a, const std::byte* b) {
    if constexpr (IntegerFormat<Format>) {
      constexpr int kCount = Format::kUnitElements;
      typename Format::A x[kCount];
      typename Format::B y[kCount * kLanes];
      std::memcpy(x, a, 4);
      std::memcpy(y, b, kLine);
      return each([&](int i) {
        std::int32_t sum = std::bit_cast<std::int32_t>(c.lane[i]);
        for (int e = 0; e < kCount; ++e) sum += std::int32_t{x[e]} * y[kCount * i + e];
        return std::bit_cast<float>(sum);
      });
    } else if constexpr (Format::kUnitElements == 1) {
      float x;
      std::memcpy(&x, a, 4);
      return fma(set(x), load(reinterpret_cast<const float*>(b)), c);
    } else {
      bf16 x[2], y[2 * kLanes];
      std::memcpy(x, a, 4);
      std::memcpy(y, b, kLine);
      return each([&](int i) {
        const float odd = std::fma(to_float(x[1]), to_float(y[2 * i + 1]), c.lane[i]);
        return std::fma(to_float(x[0]), to_float(y[2 * i]), odd);
      });
    }
  }
};

}  // namespace fusion_attention::arch
