#include "api/join.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>

#include "base/half.h"
#include "base/math.h"
#include "base/parallel.h"
#include "fusion_attention/run.h"
#include "problem/typed.h"

namespace fusion_attention {
namespace {

// Calls work(first, last) for pieces of [0, count), on all threads.
template <class Work>
void in_pieces(std::int64_t count, std::int64_t piece, const Work& work) {
  parallel_for(ceil_div(count, piece), thread_count(),
               [&](std::int64_t task, int) { work(task * piece, std::min((task + 1) * piece, count)); });
}

template <class T>
void join_row(std::int64_t channels, T* into, float& max, float& sum, const T* from, float other_max,
              float other_sum) {
  if (other_max == -FLT_MAX) return;  // a row that saw nothing has sum 1
  if (max == -FLT_MAX) {
    max = other_max, sum = other_sum;
    std::memcpy(into, from, static_cast<std::size_t>(channels) * sizeof(T));
    return;
  }
  const float top = std::max(max, other_max);
  const float here = sum * std::exp(max - top), there = other_sum * std::exp(other_max - top);
  const float total = here + there;
  for (std::int64_t c = 0; c < channels; ++c)
    into[c] = from_float<T>((here * to_float(into[c]) + there * to_float(from[c])) / total);
  max = top, sum = total;
}

}  // namespace

void join(const TensorView& output, const RowResults& into, const RowResults& from) {
  const std::int64_t heads = output.heads(), rows = output.rows(), channels = output.channels();
  with_floating_type(output.dtype, [&](auto type) {
    using T = decltype(type);
    T* to = static_cast<T*>(into.output);
    const T* other = static_cast<const T*>(from.output);
    in_pieces(output.batches() * heads * rows, 256, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t i = first; i < last; ++i) {
        const std::int64_t plane = i / rows;
        const std::int64_t entry = (plane / heads * rows + i % rows) * heads + plane % heads;
        join_row(channels, to + i * channels, into.max[entry], into.sum[entry], other + i * channels,
                 from.max[entry], from.sum[entry]);
      }
    });
  });
}

void add(Dtype dtype, std::int64_t count, void* into, const void* from) {
  with_floating_type(dtype, [&](auto type) {
    using T = decltype(type);
    T* to = static_cast<T*>(into);
    const T* other = static_cast<const T*>(from);
    in_pieces(count, 1 << 16, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t i = first; i < last; ++i) to[i] = from_float<T>(to_float(to[i]) + to_float(other[i]));
    });
  });
}

}  // namespace fusion_attention
