// Random problems of int8 operands: those of random_problem.h with other operands, and some with several
// tiles of keys.
#pragma once

#include "support/random_problem.h"

namespace fusion_attention::testing {

// Few rows against up to four tiles of keys, which a row's maximum and its band cross.
inline Problem long_problem(Draw& draw) {
  const std::int64_t kv_heads = draw.between(1, 2), group = draw.between(1, 3), rows = draw.between(1, 40),
                     keys = draw.pick<std::int64_t>({1000, 1023, 1024, 1025, 1056, 2047, 2049, 2200, 3500}),
                     depth = draw.pick<std::int64_t>({1, 5, 16, 33, 64}),
                     value_depth = draw.pick<std::int64_t>({1, 8, 17, 40});
  Band band = draw.band(rows, keys);
  if (draw.one_in(3)) band = {.lo = keys - rows - draw.between(0, 600), .hi = keys - rows};
  if (draw.one_in(6)) band = {.lo = draw.between(0, keys), .hi = Band::kFar};
  Problem p = dense_problem(Pass::forward, Dtype::int8, draw.between(1, 2), kv_heads * group, kv_heads, rows,
                            keys, depth, value_depth, 1 / std::sqrt(static_cast<double>(depth)), band);
  if (draw.one_in(4)) describe_overlay(draw, p);
  return p;
}

inline Problem integer_problem(Draw& draw) {
  Problem p = draw.one_in(4) ? long_problem(draw) : random_problem(draw, Pass::forward);
  for (TensorView* v : {&p.query, &p.key, &p.value}) v->dtype = Dtype::int8;
  p.output.dtype = Dtype::float16;
  // Scores of a few units, mostly; sums of D products of numbers up to 128 have a spread of 5400·√D.
  const auto root = std::sqrt(static_cast<float>(p.query.channels()));
  p.integer.score_scale = draw.pick({1e-4f, 3e-4f, 1e-3f, 4e-3f / root, 1.0f, 1e30f, 0.0f, -3e-4f});
  p.integer.weight_scale = draw.pick({127.0f, 127.0f, 127.0f, 255.0f, 60.3f, -128.0f, 0.0f, 1e6f});
  p.integer.value_scale = draw.pick({1e-3f, 1e-4f, 3e-5f, 0.03f, 1e-9f, 10.0f, 0.0f, -1e-3f});
  if (draw.one_in(4)) {
    p.bias.kind = BiasKind::dense;
    p.bias.dtype = Dtype::float16;
    natural_bias(p, {draw.one_in(2), !draw.one_in(4), !draw.one_in(4)}, numbering_of(p));
  }
  if (!draw.one_in(3)) return p;
  p.output.dtype = Dtype::int8;
  p.output_scaling.scale = reinterpret_cast<const float*>(kDescribed);
  p.output_scaling.channels = draw.one_in(2) ? 1 : p.query.heads() * p.value.channels();
  if (draw.one_in(2)) p.output_scaling.offset = p.output_scaling.scale;
  return p;
}

enum class Integers { any, small, least, most, ends };

inline void fill_integers(const TensorView& v, Integers fill, Draw& draw) {
  const auto value = [&]() -> std::int64_t {
    switch (fill) {
      case Integers::small:
        return draw.between(-3, 3);
      case Integers::least:
        return -128;
      case Integers::most:
        return 127;
      case Integers::ends:
        return draw.one_in(2) ? -128 : 127;
      default:
        return draw.between(-128, 127);
    }
  };
  for (std::int64_t b = 0; b < v.batches(); ++b)
    for (std::int64_t h = 0; h < v.heads(); ++h)
      for (std::int64_t r = 0; r < v.rows(); ++r)
        for (std::int64_t c = 0; c < v.channels(); ++c)
          *element(v, b, h, r, c) = static_cast<std::byte>(value());
}

// A NaN or an infinity somewhere in the bias.
inline void plant_in_bias(const Problem& p, Draw& draw) {
  if (!p.bias || p.bias.elements == 0) return;
  const f16 bits{draw.pick<std::uint16_t>({0x7e00, 0x7c00, 0xfc00})};
  const std::int64_t at = draw.between(0, p.bias.elements - 1);
  std::memcpy(static_cast<std::byte*>(const_cast<void*>(p.bias.data)) + at * 2, &bits, 2);
}

inline std::unique_ptr<Case> integer_case(std::uint64_t seed) {
  Draw draw(seed);
  auto made = std::make_unique<Case>(integer_problem(draw), seed, Fill::normal, Layout::random);
  const Problem& p = made->problem;
  for (const TensorView* v : {&p.query, &p.key, &p.value})
    fill_integers(*v,
                  draw.pick({Integers::any, Integers::any, Integers::any, Integers::small, Integers::least,
                             Integers::most, Integers::ends}),
                  draw);
  if (draw.one_in(4)) plant_in_bias(p, draw);
  if (draw.one_in(12)) made->problem.statistics.max = made->problem.statistics.sum = nullptr;
  made->poison_outputs();
  return made;
}

}  // namespace fusion_attention::testing
