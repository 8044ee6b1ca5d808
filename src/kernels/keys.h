// Rows of keys (or values) out of a cache: where they lie, if they lie as plain rows do, else copied.
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
    return {part.prefix.data + head * part.prefix.head + key * part.prefix.row, part.prefix.row,
            source.prefix - key, true, 0, 0, 0};
  const std::int64_t position = key -= source.prefix;
  std::int64_t page = 0, left = Band::kFar;
  if (source.table) {
    page = source.table[key / source.page_rows];
    key %= source.page_rows;
    left = source.page_rows - key;
  }
  return {part.rows.data + page * part.page + head * part.rows.head + key * part.rows.row, part.rows.row,
          left, false, page, key, position};
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

// The scales, or offsets, of sixteen channels of a row.
template <class Arch, class S>
struct ScaleRows {
  FA_INLINE ScaleRows(const Scales& s, const Run& run, std::int64_t head)
      : data_(s.data ? place(s, run) + head * s.head : nullptr),
        row_(run.prefix ? 0 : s.row),
        each_(s.channel != 0) {}

  FA_INLINE explicit operator bool() const { return data_ != nullptr; }
  FA_INLINE typename Arch::vec at(std::int64_t row, std::int64_t channel, std::int64_t n) const {
    const S* p = reinterpret_cast<const S*>(data_ + row * row_);
    return each_ ? load_some<Arch>(p + channel, n) : Arch::set(to_float(*p));
  }

 private:
  FA_INLINE static const std::byte* place(const Scales& s, const Run& run) {
    if (run.prefix) return s.prefix;
    return s.data + (s.by_position ? run.position * s.row : run.page * s.page + run.row * s.row);
  }

  const std::byte* data_;
  std::int64_t row_;
  bool each_;
};

// Reads the rows of one kv head, up to 32 at a time.
template <class Arch, class T>
class KeyRows {
 public:
  struct Step {
    Rows<T> rows;
    Ahead ahead;
  };

  static constexpr std::size_t step_bytes(std::int64_t channels) { return kBlock * row_bytes(channels); }

  // `buffer`: step_bytes(channels).
  FA_INLINE KeyRows(const KeySource& source, std::int64_t head, std::int64_t channels, std::byte* buffer)
      : source_(source),
        head_(head),
        row_bytes_(row_bytes(channels)),
        in_place_(source.rope.channels == 0 && source.leading.dtype == kDtypeOf<T>),
        buffer_(buffer) {}

  // Keys first … first + n − 1, n ≤ 32, until the next call; no key from `end` on is looked at.
  FA_INLINE Step step(std::int64_t first, int n, std::int64_t end) const {
    if (in_place_) {
      const Run run = run_of(source_, source_.leading, head_, first);
      if (run.rows >= n) return {{run.data, run.stride}, ahead_of(source_.leading, first, n, end)};
    }
    copy(source_.leading, first, n, end, buffer_);
    if (source_.rope.channels > 0)
      copy(source_.rope, first, n, end, buffer_ + source_.leading.channels * std::int64_t{sizeof(T)});
    return {{buffer_, row_bytes_}, {buffer_, 0, 0}};
  }

 private:
  static constexpr std::int64_t row_bytes(std::int64_t channels) {
    return round_up(channels * std::int64_t{sizeof(T)}, kLine);
  }

  FA_INLINE Ahead ahead_of(const KeyChannels& part, std::int64_t first, int n, std::int64_t end) const {
    const std::int64_t next = lesser(first + n, end - 1);
    const Run run = run_of(source_, part, head_, next);
    return {run.data, run.stride, lesser(run.rows, end - next) - 1};
  }

  // Run by run, one part of the channels of n keys.
  [[gnu::noinline]] void copy(const KeyChannels& part, std::int64_t first, int n, std::int64_t end,
                              std::byte* out) const {
    const Ahead ahead = ahead_of(part, first, n, end);
    for (int done = 0; done < n;) {
      Run run = run_of(source_, part, head_, first + done);
      run.rows = lesser(run.rows, n - done);
      if (part.dtype == Dtype::int8) {
        widen<std::int8_t>(part, run, ahead, done, out);
      } else if (part.dtype == Dtype::int4) {
        widen<int4_pair>(part, run, ahead, done, out);
      } else {
        copy_rows(part, run, ahead, done, out);
      }
      done += static_cast<int>(run.rows);
    }
  }

  FA_INLINE static void prefetch(const std::byte* row, std::int64_t bytes) {
    for (std::int64_t at = 0; at < bytes; at += kLine) __builtin_prefetch(row + at);
  }

  FA_INLINE void copy_rows(const KeyChannels& part, const Run& run, const Ahead& ahead, int done,
                           std::byte* out) const {
    const std::int64_t bytes = part.channels * std::int64_t{sizeof(T)};
    for (std::int64_t i = 0; i < run.rows; ++i) {
      prefetch(ahead[done + i], bytes);
      std::memcpy(out + (done + i) * row_bytes_, run.data + i * run.stride, static_cast<std::size_t>(bytes));
    }
  }

  template <class Stored>
  void widen(const KeyChannels& part, const Run& run, const Ahead& ahead, int done, std::byte* out) const {
    const Dtype dtype = part.scale.data ? part.scale.dtype : part.offset.dtype;
    if (dtype == Dtype::float32) return widen_as<Stored, float>(part, run, ahead, done, out);
    dtype == Dtype::float16 ? widen_as<Stored, f16>(part, run, ahead, done, out)
                            : widen_as<Stored, bf16>(part, run, ahead, done, out);
  }

  // x = (stored + offset)·scale, in fp32, rounded to T.
  template <class Stored, class S>
  void widen_as(const KeyChannels& part, const Run& run, const Ahead& ahead, int done, std::byte* out) const {
    constexpr std::int64_t kPerElement = std::is_same_v<Stored, int4_pair> ? 2 : 1;
    const ScaleRows<Arch, S> scale(part.scale, run, head_), offset(part.offset, run, head_);
    for (std::int64_t i = 0; i < run.rows; ++i) {
      prefetch(ahead[done + i], part.channels / kPerElement);
      const Stored* from = reinterpret_cast<const Stored*>(run.data + i * run.stride);
      T* to = reinterpret_cast<T*>(out + (done + i) * row_bytes_);
      for (std::int64_t c = 0; c < part.channels; c += kLanes) {
        const std::int64_t left = part.channels - c;
        auto x = load_some<Arch>(from + c / kPerElement, left);
        if (offset) x = Arch::add(x, offset.at(i, c, left));
        if (scale) x = Arch::mul(x, scale.at(i, c, left));
        store_some<Arch>(to + c, x, left);
      }
    }
  }

  const KeySource& source_;
  const std::int64_t head_, row_bytes_;
  const bool in_place_;
  std::byte* const buffer_;
};

}  // namespace fusion_attention::kernels
