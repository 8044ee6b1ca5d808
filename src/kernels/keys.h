// Rows of keys (or values) out of a cache: where they lie, if they lie as plain rows of the query's dtype do,
// else copied, and widened if they are stored as integers.
#pragma once

#include <cstring>
#include <type_traits>

#include "base/int4.h"
#include "kernels/kernels.h"
#include "kernels/pack.h"

namespace fusion_attention::kernels {

template <class T>
inline constexpr Dtype kDtypeOf = Dtype::float32;
template <>
inline constexpr Dtype kDtypeOf<f16> = Dtype::float16;
template <>
inline constexpr Dtype kDtypeOf<bf16> = Dtype::bfloat16;

// Rows of some channels at equal distances, and where their scales are.
struct Run {
  const std::byte* data;
  std::int64_t stride, rows;
  bool prefix;
  std::int64_t page, row, position;  // of its first row: page and row in it, place behind the prefix
};

// From a key on, as far as its neighbours lie beside it.
FA_INLINE Run run_of(const KeySource& source, const KeyChannels& part, std::int64_t head, std::int64_t key) {
  if (key < source.prefix)
    return {part.prefix.data + head * part.prefix.head + key * part.prefix.row,
            part.prefix.row,
            source.prefix - key,
            true,
            0,
            0,
            0};
  const std::int64_t position = key -= source.prefix;
  std::int64_t page = 0, left = Band::kFar;
  if (source.table) {
    page = source.table[key / source.page_rows];
    key %= source.page_rows;
    left = source.page_rows - key;
  }
  return {part.rows.data + page * part.page + head * part.rows.head + key * part.rows.row,
          part.rows.row,
          left,
          false,
          page,
          key,
          position};
}

FA_INLINE bool same(const Operand& a, const Operand& b) {
  return a.data == b.data && a.head == b.head && a.row == b.row;
}
FA_INLINE bool same(const Scales& a, const Scales& b) {
  return a.data == b.data && a.dtype == b.dtype && a.page == b.page && a.head == b.head && a.row == b.row &&
         a.channel == b.channel && a.by_position == b.by_position;
}

// Values that are the first channels of the keys (MLA) are not read a second time.
FA_INLINE bool holds(const KeySource& key, const KeySource& value) {
  const KeyChannels &k = key.leading, &v = value.leading;
  return same(k.rows, v.rows) && same(k.prefix, v.prefix) && k.page == v.page && k.dtype == v.dtype &&
         v.channels <= k.channels && same(k.scale, v.scale) && same(k.offset, v.offset);
}

// Rows that will be wanted soon: row j of a step is fetched while row j of the step before is read.
struct Ahead {
  const std::byte* data;
  std::int64_t stride, last;

  FA_INLINE const std::byte* operator[](std::int64_t j) const { return data + lesser(j, last) * stride; }
};

// Rows that lie somewhere, and those that follow them.
template <class T>
struct AheadRows : Rows<T> {
  Ahead ahead;
};
template <class T>
FA_INLINE void fetch_ahead(const AheadRows<T>& rows, std::int64_t j, std::int64_t channel) {
  __builtin_prefetch(reinterpret_cast<const T*>(rows.ahead[j]) + channel);
}
template <class T>
FA_INLINE void fetch_ahead(const Rows<T>&, std::int64_t, std::int64_t) {}

// The scales (or offsets) of the channels of one row after another, as floats in `line`: one vec of them
// where all channels have the same. A NaN keeps its upper half only, and so do those that come of it by
// arithmetic: what round_bf16_number asks for.
template <class Arch>
class ScaleLine {
  using vec = typename Arch::vec;

 public:
  FA_INLINE ScaleLine(const Scales& s, float none, const Run& run, std::int64_t head, std::int64_t channels,
                      float* line)
      : data_(s.data ? place(s, run) + head * s.head : nullptr),
        row_(run.prefix ? 0 : s.row),
        dtype_(s.dtype),
        channels_(s.channel ? channels : 0),
        mask_(s.channel ? -1 : 0),
        line_(line) {
    data_ ? fetch(0) : Arch::store(line_, Arch::set(none));
  }

  FA_INLINE void go_to(std::int64_t row) const {
    if (row_ && data_) fetch(row);
  }
  FA_INLINE vec at(std::int64_t channel) const { return Arch::load(line_ + (channel & mask_)); }

 private:
  FA_INLINE static const std::byte* place(const Scales& s, const Run& run) {
    if (run.prefix) return s.prefix;
    return s.data + (s.by_position ? run.position * s.row : run.page * s.page + run.row * s.row);
  }

  FA_INLINE void fetch(std::int64_t row) const {
    const std::byte* p = data_ + row * row_;
    if (dtype_ == Dtype::float32) return fetch_as(reinterpret_cast<const float*>(p));
    dtype_ == Dtype::float16 ? fetch_as(reinterpret_cast<const f16*>(p))
                             : fetch_as(reinterpret_cast<const bf16*>(p));
  }
  template <class S>
  FA_INLINE void fetch_as(const S* p) const {
    if (channels_ == 0) {
      const float x = to_float(*p);
      return Arch::store(line_, Arch::set(x == x ? x : to_float(from_float<bf16>(x))));
    }
    for (std::int64_t c = 0; c < channels_; c += kLanes) {
      const vec x = load_some<Arch>(p + c, channels_ - c);
      Arch::store(line_ + c, Arch::select(Arch::unordered(x), Arch::truncate_bf16(x), x));
    }
  }

  const std::byte* data_;
  std::int64_t row_;
  Dtype dtype_;
  std::int64_t channels_, mask_;  // 0 and 0 where one vec serves all channels
  float* line_;
};

// use(first, how many) for sixteen channels after another, and what is left.
template <class Use>
FA_INLINE void for_vecs(std::int64_t first, std::int64_t end, const Use& use) {
#pragma GCC unroll 4
  for (; first + kLanes <= end; first += kLanes) use(first, std::int64_t{kLanes});
  if (first < end) use(first, end - first);
}

// Rounded to T, held as a float. NaN: only one whose lower half is 0.
template <class Arch, class T>
FA_INLINE typename Arch::vec round_number(typename Arch::vec x) {
  if constexpr (std::is_same_v<T, bf16>) return Arch::round_bf16_number(x);
  if constexpr (std::is_same_v<T, f16>) return Arch::round_fp16(x);
  return x;
}

// Reads the rows of one kv head, up to 32 at a time. Rows that must be copied, or widened, become rows of
// Copy: T, or float, which holds the same numbers and spares whoever multiplies floats the way to T and back.
template <class Arch, class T, class Copy = T>
class KeyRows {
 public:
  struct Step {
    const std::byte* data;
    std::int64_t stride;
    bool in_place;
    Ahead ahead;  // of rows in place: copying has fetched its own

    FA_INLINE Rows<T> rows() const
      requires std::is_same_v<T, Copy>
    {
      return {data, stride};
    }
    // use(AheadRows<T>), in place, or use(Rows<Copy>).
    template <class Use>
    FA_INLINE void visit(const Use& use) const {
      in_place ? use(AheadRows<T>{{data, stride}, ahead}) : use(Rows<Copy>{data, stride});
    }
  };

  static constexpr std::size_t step_bytes(std::int64_t channels) {
    return kBlock * row_bytes(channels) + 2 * line_bytes(channels);
  }

  // `buffer`: step_bytes(channels).
  FA_INLINE KeyRows(const KeySource& source, std::int64_t head, std::int64_t channels, std::byte* buffer)
      : source_(source),
        head_(head),
        row_bytes_(row_bytes(channels)),
        in_place_(source.rope.channels == 0 && source.leading.dtype == kDtypeOf<T>),
        buffer_(buffer),
        scale_line_(reinterpret_cast<float*>(buffer + kBlock * row_bytes_)),
        offset_line_(scale_line_ + line_bytes(channels) / std::int64_t{sizeof(float)}) {}

  // Keys first … first + n − 1, n ≤ 32, until the next call; no key from `end` on is looked at.
  FA_INLINE Step step(std::int64_t first, int n, std::int64_t end) const {
    if (in_place_) {
      const Run run = run_of(source_, source_.leading, head_, first);
      if (run.rows >= n) return {run.data, run.stride, true, ahead_of(source_.leading, first + n, end)};
    }
    copy(source_.leading, first, n, end, buffer_);
    if (source_.rope.channels > 0)
      copy(source_.rope, first, n, end, buffer_ + source_.leading.channels * std::int64_t{sizeof(Copy)});
    return {buffer_, row_bytes_, false, {}};
  }

 private:
  static constexpr std::int64_t row_bytes(std::int64_t channels) {
    return round_up(channels * std::int64_t{sizeof(Copy)}, kLine);
  }
  static constexpr std::int64_t line_bytes(std::int64_t channels) {
    return round_up(channels * std::int64_t{sizeof(float)}, kLine);
  }

  // Rows from `next` on, as far as their run and `end` go; at least one.
  FA_INLINE Ahead ahead_of(const KeyChannels& part, std::int64_t next, std::int64_t end) const {
    next = lesser(next, end - 1);
    const Run run = run_of(source_, part, head_, next);
    return {run.data, run.stride, lesser(run.rows, end - next) - 1};
  }

  // Run by run, one part of the channels of n keys.
  [[gnu::noinline]] void copy(const KeyChannels& part, std::int64_t first, int n, std::int64_t end,
                              std::byte* out) const {
    for (std::int64_t done = 0; done < n;) {
      Run run = run_of(source_, part, head_, first + done);
      run.rows = lesser(run.rows, n - done);
      const Ahead ahead = ahead_of(part, first + n + done, end);
      std::byte* to = out + done * row_bytes_;
      if (part.dtype == Dtype::int8) {
        widen<std::int8_t>(part, run, ahead, to);
      } else if (part.dtype == Dtype::int4) {
        widen<int4_pair>(part, run, ahead, to);
      } else {
        copy_rows(part, run, ahead, to);
      }
      done += run.rows;
    }
  }

  FA_INLINE static void prefetch(const std::byte* row, std::int64_t bytes) {
    for (std::int64_t at = 0; at < bytes; at += kLine) __builtin_prefetch(row + at);
  }

  FA_INLINE void copy_rows(const KeyChannels& part, const Run& run, const Ahead& ahead,
                           std::byte* out) const {
    const std::int64_t bytes = part.channels * std::int64_t{sizeof(T)};
    for (std::int64_t i = 0; i < run.rows; ++i) {
      prefetch(ahead[i], bytes);
      const std::byte* from = run.data + i * run.stride;
      if constexpr (std::is_same_v<T, Copy>) {
        std::memcpy(out + i * row_bytes_, from, static_cast<std::size_t>(bytes));
      } else {
        const T* p = reinterpret_cast<const T*>(from);
        Copy* to = reinterpret_cast<Copy*>(out + i * row_bytes_);
        for_vecs(0, part.channels, [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
          store_some<Arch>(to + c, load_some<Arch>(p + c, n), n);
        });
      }
    }
  }

  template <class Stored>
  void widen(const KeyChannels& part, const Run& run, const Ahead& ahead, std::byte* out) const {
    part.offset.data ? widen_rows<Stored, true>(part, run, ahead, out)
                     : widen_rows<Stored, false>(part, run, ahead, out);
  }

  // x = (stored + offset)·scale, in fp32, rounded to T.
  template <class Stored, bool Offset>
  void widen_rows(const KeyChannels& part, const Run& run, const Ahead& ahead, std::byte* out) const {
    constexpr std::int64_t kPerElement = std::is_same_v<Stored, int4_pair> ? 2 : 1;
    const ScaleLine<Arch> scale(part.scale, 1.0f, run, head_, part.channels, scale_line_),
        offset(part.offset, 0.0f, run, head_, part.channels, offset_line_);
    for (std::int64_t i = 0; i < run.rows; ++i) {
      prefetch(ahead[i], part.channels / kPerElement);
      scale.go_to(i);
      offset.go_to(i);
      const Stored* from = reinterpret_cast<const Stored*>(run.data + i * run.stride);
      const auto at = [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
        auto x = load_some<Arch>(from + c / kPerElement, n);
        if constexpr (Offset) x = Arch::add(x, offset.at(c));
        return Arch::mul(x, scale.at(c));
      };
      round_row(part.channels, at, reinterpret_cast<Copy*>(out + i * row_bytes_));
    }
  }

  template <class Numbers>
  FA_INLINE static void round_row(std::int64_t channels, const Numbers& at, Copy* to) {
    std::int64_t first = 0;
    if constexpr (std::is_same_v<Copy, bf16>)  // one instruction rounds two vecs, where there is one
      for (; first + 2 * kLanes <= channels; first += 2 * kLanes)
        Arch::store_pairs(to + first, at(first, kLanes), at(first + kLanes, kLanes));
    for_vecs(first, channels, [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
      if constexpr (std::is_same_v<T, Copy>)
        store_some<Arch>(to + c, at(c, n), n);
      else
        store_some<Arch>(to + c, round_number<Arch, T>(at(c, n)), n);
    });
  }

  const KeySource& source_;
  const std::int64_t head_, row_bytes_;
  const bool in_place_;
  std::byte* const buffer_;
  float *const scale_line_, *const offset_line_;
};

}  // namespace fusion_attention::kernels
