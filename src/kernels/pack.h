// From rows in somebody's memory to the A and B formats of arch/tile.h. Every packing is zero past its rows
// and columns, up to the end of the last group, and reads nothing outside the rows it is given.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "arch/tile.h"
#include "base/half.h"
#include "base/inline.h"
#include "base/math.h"

namespace fusion_attention::kernels {

using arch::kBlock;
using arch::kGroupBytes;
using arch::kGroupElements;
using arch::kLanes;
using arch::kLine;

// Groups and units that hold `elements` of depth.
template <class Format>
constexpr int groups(std::int64_t elements) {
  return static_cast<int>(ceil_div(elements, kGroupElements<Format>));
}
template <class Format>
constexpr int units(std::int64_t elements) {
  return static_cast<int>(ceil_div(elements, Format::kUnitElements));
}

// Bytes of an operand of `elements` of depth and 32 rows (columns): all planes.
template <class Format>
constexpr std::size_t plane_bytes(std::int64_t elements) {
  return groups<Format>(elements) * kGroupBytes;
}
template <class Format>
constexpr std::size_t operand_bytes(std::int64_t elements) {
  return Format::kPlanes * plane_bytes<Format>(elements);
}

// Rows of one head: row i begins at data + i*stride bytes; T elements, contiguous.
template <class T>
struct Rows {
  const std::byte* data;
  std::int64_t stride;

  FA_INLINE const T* operator[](std::int64_t i) const {
    return reinterpret_cast<const T*>(data + i * stride);
  }
};

// Up to sixteen elements, zero past n.
template <class Arch, class T>
FA_INLINE typename Arch::vec load_some(const T* p, std::int64_t n) {
  if (n >= kLanes) return Arch::load(p);
  return n > 0 ? Arch::load(p, static_cast<int>(n)) : Arch::zero();
}

// Up to sixteen elements of a vec.
template <class Arch, class T>
FA_INLINE void store_some(T* p, typename Arch::vec x, std::int64_t n) {
  n >= kLanes ? Arch::store(p, x) : Arch::store(p, x, static_cast<int>(n));
}

// One element of an A line, all planes together.
template <class Format>
FA_INLINE float a_element(const std::byte* line, std::size_t plane, std::int64_t element) {
  if constexpr (Format::kUnitElements == 1) return reinterpret_cast<const float*>(line)[element];
  float sum = 0;
  for (int i = 0; i < Format::kPlanes; ++i)
    sum += to_float(reinterpret_cast<const bf16*>(line + i * plane)[element]);
  return sum;
}

// Takes the leading bf16 of every lane and leaves the rest; an infinity or NaN leaves nothing behind.
template <class Arch>
FA_INLINE typename Arch::vec take_plane(typename Arch::vec& x) {
  const auto leading = Arch::truncate_bf16(x);
  x = Arch::select(Arch::unordered(x), Arch::zero(), Arch::sub(x, leading));
  return leading;
}

// The 64-byte line of one row and one group, in every plane: `n` elements from p on.
template <class Arch, class Format, class T>
FA_INLINE void pack_line(const T* p, std::int64_t n, std::byte* out, std::size_t plane) {
  if constexpr (arch::IntegerFormat<Format>) {  // not raised
    auto* to = reinterpret_cast<typename Format::B*>(out);
    if (n >= kGroupElements<Format>) {
      for (int i = 0; i < kGroupElements<Format>; ++i) to[i] = p[i];
    } else {
      std::memset(out, 0, kLine);
      for (int i = 0; i < n; ++i) to[i] = p[i];
    }
  } else if constexpr (Format::kUnitElements == 1) {
    Arch::store(reinterpret_cast<float*>(out), load_some<Arch>(p, n));
  } else {
    auto low = load_some<Arch>(p, n), high = load_some<Arch>(p + kLanes, n - kLanes);
    for (int i = 0; i < Format::kPlanes; ++i) {
      if constexpr (Format::kPlanes == 1) {  // T is bf16 itself: exact
        Arch::store_pairs(out, low, high);
      } else {
        const auto a = take_plane<Arch>(low), b = take_plane<Arch>(high);
        Arch::store_pairs(out + i * plane, a, b);
      }
    }
  }
}

// A: `rows` ≤ 32 rows of `depth` channels, row r at from[r]. [plane][group][32 rows][64 B]. Rows from `end`
// on are left as they are.
template <class Arch, class Format, class From>
void pack_a(const From& from, int rows, std::int64_t depth, std::byte* out, int end = kBlock) {
  const std::size_t plane = plane_bytes<Format>(depth);
  for (int g = 0; g < groups<Format>(depth); ++g) {
    const std::int64_t first = std::int64_t{g} * kGroupElements<Format>;
    std::byte* lines = out + g * kGroupBytes;
    for (int r = 0; r < rows; ++r)
      pack_line<Arch, Format>(from[r] + first, depth - first, lines + r * kLine, plane);
    for (int i = 0; i < Format::kPlanes; ++i)
      if (rows < end) std::memset(lines + i * plane + rows * kLine, 0, (end - rows) * kLine);
  }
}

// Sixteen lines of zeros in every plane.
template <class Format>
FA_INLINE void clear_half(std::byte* to, std::size_t plane) {
  for (int i = 0; i < Format::kPlanes; ++i) std::memset(to + i * plane, 0, kGroupBytes / 2);
}

// Sixteen lines, transposed as 32-bit units.
template <class Arch>
FA_INLINE void store_transposed(typename Arch::vec (&tile)[kLanes], std::byte* to) {
  Arch::transpose(tile);
  for (int u = 0; u < kLanes; ++u) Arch::store(reinterpret_cast<float*>(to + u * kLine), tile[u]);
}

// B of the transpose: columns are `rows` ≤ 32 rows, depth is their channels. [plane][group][2 halves][16
// units][64 B]
template <class Arch, class Format, class T>
void pack_b_transposed(Rows<T> from, int rows, std::int64_t depth, std::byte* out) {
  alignas(64) std::byte lines[Format::kPlanes][kLanes][kLine];
  const std::size_t plane = plane_bytes<Format>(depth);
  for (int g = 0; g < groups<Format>(depth); ++g) {
    const std::int64_t first = std::int64_t{g} * kGroupElements<Format>, left = depth - first;
    for (int half = 0; half < 2; ++half) {
      typename Arch::vec tile[kLanes];
      std::byte* to = out + g * kGroupBytes + half * (kGroupBytes / 2);
      if (half * kLanes >= rows) {
        clear_half<Format>(to, plane);
        continue;
      }
      if constexpr (Format::kUnitElements == 1) {
        const bool whole = left >= kLanes && (half + 1) * kLanes <= rows;
        for (int r = 0; r < kLanes; ++r) {
          const int row = half * kLanes + r;
          tile[r] = whole        ? Arch::load(from[row] + first)
                    : row < rows ? load_some<Arch>(from[row] + first, left)
                                 : Arch::zero();
        }
        store_transposed<Arch>(tile, to);
      } else {
        for (int r = 0; r < kLanes; ++r) {
          const int row = half * kLanes + r;  // past the rows: zero elements of the first one
          pack_line<Arch, Format>(from[row < rows ? row : 0] + first, row < rows ? left : 0, lines[0][r],
                                  sizeof lines[0]);
        }
        for (int i = 0; i < Format::kPlanes; ++i) {
          for (int r = 0; r < kLanes; ++r) tile[r] = Arch::load(reinterpret_cast<const float*>(lines[i][r]));
          store_transposed<Arch>(tile, to + i * plane);
        }
      }
    }
  }
}

// Replaces infinities and NaN by zero and reports them: 0·inf must not reach a row that does not see the key.
template <class Arch>
FA_INLINE typename Arch::vec clear_nonfinite(typename Arch::vec x, bool& found) {
  const auto bad = Arch::unordered(x);
  found |= bad != 0;
  return Arch::select(bad, Arch::zero(), x);
}

// Depth is `rows` rows (any number up to the `capacity` that sets the distance of planes), the other axis is
// `channels` ≤ 32 of their channels. As it lies that is B, [plane][group][2 halves][16 units][16 channels];
// with every 16 × 16 tile transposed it is A of the transpose, [plane][group][32 channels][16 units].
template <class Arch, class Format, bool Transposed, class T>
class DepthPacking {
  using vec = typename Arch::vec;

 public:
  FA_INLINE DepthPacking(Rows<T> from, std::int64_t rows, std::int64_t first_channel, std::int64_t channels,
                         std::int64_t capacity, std::byte* out)
      : from_(from),
        rows_(rows),
        first_(first_channel),
        channels_(channels),
        plane_(plane_bytes<Format>(capacity)),
        out_(out) {}

  // Returns whether some element is an infinity or NaN: those become zero if they are to be cleared, and what
  // is packed is of no use otherwise.
  template <bool Clear>
  FA_INLINE bool pack() const {
    // Whole steps: what lies past the rows is multiplied by zero and must not be NaN.
    const int whole = groups<Format>(round_up(rows_, kBlock));
    vec probe = Arch::zero();  // NaN once it has met an infinity or NaN
    for (int half = 0; half < 2; ++half) {
      if (!Transposed && half * kLanes >= channels_)
        break;  // block<Columns = 1> never looks at the other half
      const std::int64_t n = channels_ - half * kLanes;
      for (int g = 0; g < whole; ++g) {
        const std::int64_t row = std::int64_t{g} * kGroupElements<Format>;
        std::byte* to = out_ + g * kGroupBytes + half * (kGroupBytes / 2);
        if (row >= rows_) {
          clear_half<Format>(to, plane_);
        } else if (n >= kLanes && row + kGroupElements<Format> <= rows_) {
          tile<Clear>([&](std::int64_t r) { return Arch::load(at(row + r, half)); }, probe, to);
        } else {
          tile<Clear>(
              [&](std::int64_t r) {
                const bool real = row + r < rows_;
                return load_some<Arch>(at(real ? row + r : 0, half), real ? n : 0);
              },
              probe, to);
        }
      }
    }
    return Arch::unordered(probe) != 0;
  }

 private:
  FA_INLINE const T* at(std::int64_t row, int half) const { return from_[row] + first_ + half * kLanes; }

  template <bool Clear, class Load>
  FA_INLINE void tile(const Load& load, vec& probe, std::byte* to) const {
    const auto line = [&](std::int64_t r) __attribute__((always_inline)) {
      const vec x = load(r);
      probe = Arch::fma(x, Arch::zero(), probe);
      bool found = false;
      return Clear ? clear_nonfinite<Arch>(x, found) : x;
    };
    vec tile[Format::kPlanes][kLanes];
    for (int u = 0; u < kLanes; ++u) {
      if constexpr (Format::kUnitElements == 1) {
        tile[0][u] = line(u);
      } else {
        auto low = line(2 * u), high = line(2 * u + 1);
        for (int i = 0; i < Format::kPlanes; ++i) {
          const auto a = take_plane<Arch>(low), b = take_plane<Arch>(high);
          tile[i][u] = Arch::interleave(a, b);
        }
      }
    }
    for (int i = 0; i < Format::kPlanes; ++i) {
      if constexpr (Transposed) Arch::transpose(tile[i]);
      for (int u = 0; u < kLanes; ++u)
        Arch::store(reinterpret_cast<float*>(to + i * plane_ + u * kLine), tile[i][u]);
    }
  }

  const Rows<T> from_;
  const std::int64_t rows_, first_, channels_;
  const std::size_t plane_;
  std::byte* const out_;
};

// Infinities and NaN become zero and are reported. They are rare, so they are looked for first.
template <class Arch, class Format, bool Transposed, class T>
bool pack_depth(Rows<T> from, std::int64_t rows, std::int64_t first_channel, std::int64_t channels,
                std::int64_t capacity, std::byte* out) {
  const DepthPacking<Arch, Format, Transposed, T> packing(from, rows, first_channel, channels, capacity, out);
  return packing.template pack<false>() && packing.template pack<true>();
}

}  // namespace fusion_attention::kernels
