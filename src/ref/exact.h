// Reading and writing elements for the reference: every dtype becomes double, results are rounded once.
#pragma once

#include <cstring>

#include "base/half.h"
#include "fusion_attention/problem.h"

namespace fusion_attention::ref {

inline std::byte* element(const TensorView& v, std::int64_t b, std::int64_t h, std::int64_t r,
                          std::int64_t c) {
  return static_cast<std::byte*>(v.data) +
         (b * v.stride[0] + h * v.stride[1] + r * v.stride[2] + c * v.stride[3]) * size_of(v.dtype);
}

template <class T>
double read_as(const std::byte* p) {
  T x;
  std::memcpy(&x, p, sizeof x);
  return to_float(x);
}
template <class T>
void write_as(std::byte* p, double value) {
  const T x = from_float<T>(static_cast<float>(value));
  std::memcpy(p, &x, sizeof x);
}

inline double read(const TensorView& v, std::int64_t b, std::int64_t h, std::int64_t r, std::int64_t c) {
  const std::byte* p = element(v, b, h, r, c);
  if (v.dtype == Dtype::float16) return read_as<f16>(p);
  if (v.dtype == Dtype::bfloat16) return read_as<bf16>(p);
  if (v.dtype == Dtype::int8) return static_cast<std::int8_t>(*p);
  return read_as<float>(p);
}
inline void write(const TensorView& v, std::int64_t b, std::int64_t h, std::int64_t r, std::int64_t c,
                  double value) {
  std::byte* p = element(v, b, h, r, c);
  if (v.dtype == Dtype::float16) return write_as<f16>(p, value);
  if (v.dtype == Dtype::bfloat16) return write_as<bf16>(p, value);
  if (v.dtype == Dtype::int8) {
    *p = static_cast<std::byte>(static_cast<std::int8_t>(value));
    return;
  }
  write_as<float>(p, value);
}

inline bool sees(const Problem& p, const Sequence& s, std::int64_t head, std::int64_t i, std::int64_t j) {
  const Interval keys = s.band.row(s.row0 + i, s.key0 + s.keys);
  if (j + s.key0 < keys.begin || j + s.key0 >= keys.end) return false;
  const Overlay& o = p.overlay;
  return !o || o.data[s.batch * o.stride[0] + head * o.stride[1] + i * o.stride[2] + j * o.stride[3]] == 0;
}

// Place of the statistics of row i, head n of a sequence; `before`: rows of the sequences before it.
inline std::int64_t statistics_place(const Problem& p, const Sequence& s, std::int64_t before, std::int64_t n,
                                     std::int64_t i) {
  const std::int64_t heads = p.query.heads();
  const bool head_major = p.statistics.order == StatisticsOrder::head_major;
  return (before * heads + (head_major ? n * s.rows + i : i * heads + n)) * p.statistics.copies;
}

void forward(const Problem& problem);
void backward(const Problem& problem);

}  // namespace fusion_attention::ref
