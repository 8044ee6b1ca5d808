#include "ref/scores.h"

#include <cmath>

#include "ref/exact.h"

namespace fusion_attention::ref {
namespace {

double number(const Bias& bias, std::int64_t place) {
  const auto* p = static_cast<const std::byte*>(bias.data) + place * size_of(bias.dtype);
  if (bias.dtype == Dtype::float16) return read_as<f16>(p);
  if (bias.dtype == Dtype::bfloat16) return read_as<bf16>(p);
  return read_as<float>(p);
}

double bias(const Problem& p, const Sequence& s, std::int64_t n, std::int64_t i, std::int64_t j) {
  return bias_factor(p, s, i, j) * number(p.bias, bias_place(p, s, n, i, j));
}

// To fp16, saturating.
double half(double x) {
  const double limited = x > 65504 ? 65504 : x < -65504 ? -65504 : x;  // NaN stays
  return to_float(from_float<f16>(static_cast<float>(limited)));
}

}  // namespace

double bias_factor(const Problem& p, const Sequence& s, std::int64_t i, std::int64_t j) {
  if (p.bias.kind == BiasKind::dense) return 1;
  const double distance = std::fabs(static_cast<double>(j - i + s.bias_shift));
  return p.bias.kind == BiasKind::distance ? -distance : -std::sqrt(distance);
}

std::int64_t bias_place(const Problem& p, const Sequence& s, std::int64_t n, std::int64_t i, std::int64_t j) {
  if (p.bias.kind != BiasKind::dense) return s.bias.base + n * s.bias.head;
  std::int64_t row = i, column = j;
  if (const std::int64_t h = p.bias.last_rows; h > 0 && i >= s.rows - h) {
    row = i - (s.rows - h);
  } else if (h > 0) {
    row = i % h;
    column = s.rows - (i - j) - (h - row);
  }
  return s.bias.base + n * s.bias.head + row * s.bias.row + column;
}

double score(const Problem& p, const Sequence& s, std::int64_t n, std::int64_t i, std::int64_t j) {
  double dot = 0;
  for (std::int64_t d = 0; d < p.query.channels(); ++d)
    dot += read(p.query, s.batch, n, s.row + i, d) * read(p.key, s.batch, n / p.group(), s.key + j, d);
  if (p.half_scores) dot = half(dot);
  if (!p.bias) return p.scale * dot;
  if (p.bias.before_scale) return p.scale * (dot + bias(p, s, n, i, j));
  return p.scale * dot + bias(p, s, n, i, j);
}

std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t{0xD2511F53} * counter[0],
                        b = std::uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<std::uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(b),
               static_cast<std::uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(a)};
    key[0] += 0x9E3779B9, key[1] += 0xBB67AE85;
  }
  return counter;
}

bool kept(const Dropout& dropout, std::int64_t e) {
  if (dropout.bits) return dropout.bits[e / 8] >> (e % 8) & 1;
  const auto low = [](std::uint64_t x) { return static_cast<std::uint32_t>(x); };
  const auto high = [](std::uint64_t x) { return static_cast<std::uint32_t>(x >> 32); };
  const auto block = static_cast<std::uint64_t>(e / 4);
  const auto words = philox({low(block), high(block), low(dropout.offset), high(dropout.offset)},
                            {low(dropout.seed), high(dropout.seed)});
  const float drop = 1.0f - static_cast<float>(dropout.keep_prob);
  return static_cast<float>(words[static_cast<std::size_t>(e % 4)] & 0x7FFFFF) * 0x1p-23f >= drop;
}

double kept_factor(const Problem& p, const Sequence& s, std::int64_t n, std::int64_t i, std::int64_t j) {
  if (!p.dropout) return 1;
  const std::int64_t e = s.dropout.base + n * s.dropout.head + i * s.dropout.row + j;
  return kept(p.dropout, e) ? 1 / p.dropout.keep_prob : 0;
}

}  // namespace fusion_attention::ref
