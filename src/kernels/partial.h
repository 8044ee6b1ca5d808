// How a row ends: divided, rounded and stored with its statistics; or left as the record of one split over
// keys, of which the splits of a row become its answer.
#pragma once

#include <cstring>

#include "arch/tile.h"
#include "base/half.h"
#include "base/inline.h"
#include "kernels/quantise.h"
#include "kernels/softmax.h"

namespace fusion_attention::kernels {

inline constexpr int kUsualCopies = 8;  // of a statistic, in every training interface

// The documented statistics of a row: equal copies; (−FLT_MAX, 1) for one that saw nothing.
FA_INLINE void store_statistics(const StatisticsPlane& plane, std::int64_t head, std::int64_t row, float max,
                                float sum) {
  if (!plane.max) return;
  const std::int64_t entry = (head * plane.head + row * plane.row) * plane.copies;
  if (max == kNothing) sum = 1.0f;
  if (plane.copies == kUsualCopies) {  // stores of a number of floats that the compiler knows
    for (int c = 0; c < kUsualCopies; ++c) plane.max[entry + c] = max;
    for (int c = 0; c < kUsualCopies; ++c) plane.sum[entry + c] = sum;
    return;
  }
  for (std::int64_t c = 0; c < plane.copies; ++c) {
    plane.max[entry + c] = max;
    plane.sum[entry + c] = sum;
  }
}

// The sink of a head as finish() and the merge take it.
FA_INLINE float sink_of(const Shape& shape, std::int64_t head) {
  return shape.sink ? shape.sink[head] : -kInfinity;
}

// Up to sixteen numbers of a row of the output, from channel c on: as T, or quantised.
template <class Arch, class T>
FA_INLINE void store_output(const ForwardArgs& a, std::int64_t head, std::int64_t row, std::int64_t c,
                            typename Arch::vec x) {
  std::byte* to = a.output.data + head * a.output.head + row * a.output.row;
  const std::int64_t left = a.shape.value_depth - c;
  if (a.output_scale.scale) {
    store_quantised<Arch>(a.output_scale, head, c, x, reinterpret_cast<std::int8_t*>(to) + c,
                          static_cast<int>(lesser(left, kLanes)));
  } else {
    store_some<Arch>(reinterpret_cast<T*>(to) + c, x, left);
  }
}

// A row that saw nothing: 0, of whatever type.
FA_INLINE void clear_output(const ForwardArgs& a, std::int64_t head, std::int64_t row, std::size_t size) {
  std::memset(a.output.data + head * a.output.head + row * a.output.row, 0,
              static_cast<std::size_t>(a.shape.value_depth) * (a.output_scale.scale ? 1 : size));
}

// O / l of one row, its lanes beginning at `o` in the C blocks of O, and its statistics; or, of one split
// over keys, the record that merge_partials takes.
template <class Arch, class T>
FA_INLINE void finish_row(const ForwardArgs& a, const ForwardTask& t, std::int64_t head, std::int64_t row,
                          const SoftmaxState<Arch>& state, int r, const float* o) {
  const std::int64_t width = a.shape.value_depth;
  // Of splits the merge adds the sink, once.
  const auto done = state.finish(r, t.partial ? -kInfinity : sink_of(a.shape, head));
  const float inverse = done.inverse * a.shape.dropout.inverse_keep;
  // A row that saw nothing is zero by choice: 0·NaN is not, and the offset of a quantised row is not.
  const bool nothing = done.nothing;
  // + 0: a sum of products that all underflowed is −0 or 0, as it was stored or added to zeros at first,
  // which the company of a row decides.
  const auto each = [&](const auto& store) {
    for (std::int64_t c = 0; c < width; c += kLanes) {
      const float* from = o + c / kBlock * arch::kBlockFloats + c % kBlock / kLanes * 256;
      store(c, nothing ? Arch::zero() : Arch::fma(Arch::load(from), Arch::set(inverse), Arch::zero()));
    }
  };
  if (t.partial) {
    const std::int64_t place =
        (head - t.kv_head * a.shape.group) * (t.row_end - t.row_begin) + row - t.row_begin;
    float* record = t.partial + place * (width + 2);
    each([&](std::int64_t c, typename Arch::vec x) { store_some<Arch>(record + c, x, width - c); });
    record[width] = done.max;
    record[width + 1] = done.sum;
  } else {
    if (nothing) {
      clear_output(a, head, row, sizeof(T));
    } else {
      each([&](std::int64_t c, typename Arch::vec x) { store_output<Arch, T>(a, head, row, c, x); });
    }
    store_statistics(a.statistics, head, row, done.max, done.sum);
  }
}

// Merges in index order. A split that saw nothing has max = −FLT_MAX and sum = 0, so that its weight is zero
// whatever the others hold.
template <class Arch, class T>
void merge_partials(const ForwardArgs& a, const MergeTask& t) {
  const std::int64_t width = a.shape.value_depth + 2, rows = t.row_end - t.row_begin;
  const std::int64_t split = a.shape.group * rows * width;
  for (std::int64_t g = 0; g < a.shape.group; ++g)
    for (std::int64_t r = 0; r < rows; ++r) {
      const float* record = t.partials + (g * rows + r) * width;
      const auto maximum = [&](int s) { return record[s * split + width - 2]; };
      const auto sum = [&](int s) { return record[s * split + width - 1]; };
      const std::int64_t head = t.kv_head * a.shape.group + g, row = t.row_begin + r;
      const float sink = sink_of(a.shape, head);
      float top = sink > kNothing || sink != sink ? sink : kNothing, total = 0;
      bool nothing = true;
      for (int s = 0; s < t.splits; ++s) nothing &= sum(s) == 0.0f;
      for (int s = 0; s < t.splits; ++s)
        top = maximum(s) > top || maximum(s) != maximum(s) ? maximum(s) : top;
      for (int s = 0; s < t.splits; ++s)
        total += sum(s) == 0.0f ? 0.0f : sum(s) * __builtin_expf(maximum(s) - top);
      if (sink != -kInfinity) total += __builtin_expf(sink - top);
      if (nothing) clear_output(a, head, row, sizeof(T));
      for (std::int64_t c = 0; !nothing && c < a.shape.value_depth; c += kLanes) {
        const int n = static_cast<int>(lesser(kLanes, a.shape.value_depth - c));
        auto o = Arch::zero();
        for (int s = 0; s < t.splits; ++s) {
          if (sum(s) == 0.0f) continue;
          const float weight = sum(s) * __builtin_expf(maximum(s) - top) / total;
          o = Arch::fma(Arch::set(weight), Arch::load(record + s * split + c, n), o);
        }
        store_output<Arch, T>(a, head, row, c, o);
      }
      store_statistics(a.statistics, head, row, top, total);
    }
}

}  // namespace fusion_attention::kernels
