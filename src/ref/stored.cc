#include "ref/stored.h"

#include <array>

#include "ref/exact.h"

namespace fusion_attention::ref {
namespace {

// An integer as it is stored.
int integer(const TensorView& v, std::int64_t b, std::int64_t n, std::int64_t r, std::int64_t c) {
  const std::int64_t index = b * v.stride[0] + n * v.stride[1] + r * v.stride[2] + c * v.stride[3];
  const auto* bytes = static_cast<const std::int8_t*>(v.data);
  if (v.dtype == Dtype::int8) return bytes[index];
  const int nibble = bytes[index / 2] >> (index % 2 * 4) & 15;
  return nibble < 8 ? nibble : nibble - 16;
}

double rounded(Dtype dtype, float x) {
  if (dtype == Dtype::float16) return to_float(from_float<f16>(x));
  if (dtype == Dtype::bfloat16) return to_float(from_float<bf16>(x));
  return x;
}

// (stored + offset)·scale, each step in fp32, then in the query's dtype.
double number(const Problem& p, const TensorView& v, const Scaling& scaling,
              const std::array<std::int64_t, 4>& at, const std::array<std::int64_t, 4>& of_scale) {
  const auto read_at = [](const TensorView& view, const std::array<std::int64_t, 4>& i) {
    return read(view, i[0], i[1], i[2], i[3]);
  };
  if (v.dtype != Dtype::int8 && v.dtype != Dtype::int4) return read_at(v, at);
  float x = static_cast<float>(integer(v, at[0], at[1], at[2], at[3]));
  if (scaling.offset.data) x += static_cast<float>(read_at(scaling.offset, of_scale));
  if (scaling.scale.data) x *= static_cast<float>(read_at(scaling.scale, of_scale));
  return rounded(p.query.dtype, x);
}

double number(const Problem& p, const Sequence& s, const TensorView& all, const TensorView& prefix,
              const Scaling& scaling, std::int64_t n, std::int64_t j, std::int64_t c) {
  if (j < s.prefix) return number(p, prefix, scaling, {0, n, j, c}, {0, n, 0, c});
  const std::int64_t behind = j - s.prefix, size = all.rows();
  std::array<std::int64_t, 4> at{s.batch, n, s.key + behind, c};
  if (p.cache.pages) at = {p.cache.pages.table[s.page + behind / size], n, behind % size, c};
  return number(p, all, scaling, at, scaling.by_position ? std::array{s.batch, n, behind, c} : at);
}

}  // namespace

double key_number(const Problem& p, const Sequence& s, std::int64_t n, std::int64_t j, std::int64_t c) {
  const std::int64_t own = p.key.channels();
  if (c < own) return number(p, s, p.key, p.cache.prefix_key, p.cache.key, n, j, c);
  return number(p, s, p.cache.key_rope, p.cache.prefix_key_rope, {}, n, j, c - own);
}

double value_number(const Problem& p, const Sequence& s, std::int64_t n, std::int64_t j, std::int64_t c) {
  return number(p, s, p.value, p.cache.prefix_value, p.cache.value, n, j, c);
}

}  // namespace fusion_attention::ref
