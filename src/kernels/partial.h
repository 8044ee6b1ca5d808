// What one split over keys leaves behind, and how the splits of a row become its answer.
#pragma once

#include "arch/tile.h"
#include "base/half.h"
#include "base/inline.h"
#include "kernels/softmax.h"

namespace fusion_attention::kernels {

// The documented statistics of a row: equal copies; (−FLT_MAX, 1) for one that saw nothing.
FA_INLINE void store_statistics(const StatisticsPlane& plane, std::int64_t head, std::int64_t row, float max,
                                float sum) {
  if (!plane.max) return;
  const std::int64_t entry = (head * plane.head + row * plane.row) * plane.copies;
  for (std::int64_t c = 0; c < plane.copies; ++c) {
    plane.max[entry + c] = max;
    plane.sum[entry + c] = max == kNothing ? 1.0f : sum;
  }
}

// The sink of a head as finish() and the merge take it.
FA_INLINE float sink_of(const Shape& shape, std::int64_t head) {
  return shape.sink ? shape.sink[head] : -kInfinity;
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
  const auto store = [&](auto* to) {
    for (std::int64_t c = 0; c < width; c += kLanes) {
      const float* from = o + c / kBlock * arch::kBlockFloats + c % kBlock / kLanes * 256;
      // A row that saw nothing is zero by choice: 0·NaN is not.
      const auto x = done.inverse == 0.0f ? Arch::zero() : Arch::mul(Arch::load(from), Arch::set(inverse));
      store_some<Arch>(to + c, x, width - c);
    }
  };
  if (t.partial) {
    const std::int64_t place =
        (head - t.kv_head * a.shape.group) * (t.row_end - t.row_begin) + row - t.row_begin;
    float* record = t.partial + place * (width + 2);
    store(record);
    record[width] = done.max;
    record[width + 1] = done.sum;
  } else {
    store(reinterpret_cast<T*>(a.output.data + head * a.output.head + row * a.output.row));
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
      for (int s = 0; s < t.splits; ++s)
        top = maximum(s) > top || maximum(s) != maximum(s) ? maximum(s) : top;
      for (int s = 0; s < t.splits; ++s)
        total += sum(s) == 0.0f ? 0.0f : sum(s) * __builtin_expf(maximum(s) - top);
      if (sink != -kInfinity) total += __builtin_expf(sink - top);
      T* out = reinterpret_cast<T*>(a.output.data + head * a.output.head + row * a.output.row);
      for (std::int64_t c = 0; c < a.shape.value_depth; c += kLanes) {
        const int n = static_cast<int>(lesser(kLanes, a.shape.value_depth - c));
        auto o = Arch::zero();
        for (int s = 0; s < t.splits; ++s) {
          if (sum(s) == 0.0f) continue;
          const float weight = sum(s) * __builtin_expf(maximum(s) - top) / total;
          o = Arch::fma(Arch::set(weight), Arch::load(record + s * split + c, n), o);
        }
        Arch::store(out + c, o, n);
      }
      store_statistics(a.statistics, head, row, top, total);
    }
}

}  // namespace fusion_attention::kernels
