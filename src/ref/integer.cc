#include "ref/integer.h"

#include <algorithm>
#include <cmath>

#include "ref/exact.h"
#include "ref/scores.h"

namespace fusion_attention::ref {
namespace {

constexpr std::int64_t kTile = 1024;

// To the nearest half, ties to even, saturating; NaN and infinities stay.
double half(double x) {
  if (x == 0 || !std::isfinite(x)) return x;
  const double ulp = std::ldexp(1.0, std::max(std::ilogb(x), -14) - 10);
  return std::clamp(std::nearbyint(x / ulp) * ulp, -65504.0, 65504.0);
}

// An integer sum times a scale: in fp32, then as a half. An fp32 that overflows saturates with it.
double scaled(std::int64_t sum, float scale) {
  const double product = static_cast<float>(double{static_cast<float>(sum)} * double{scale});
  return half(std::clamp(product, -65504.0, 65504.0));
}

double half_score(const Problem& p, const Sequence& s, std::int64_t n, std::int64_t i, std::int64_t j) {
  std::int64_t dot = 0;
  for (std::int64_t d = 0; d < p.query.channels(); ++d)
    dot += static_cast<std::int64_t>(read(p.query, s.batch, n, s.row + i, d) *
                                     read(p.key, s.batch, n / p.group(), s.key + j, d));
  const double scale = half(std::clamp(double{static_cast<float>(p.scale)}, -65504.0, 65504.0));
  const double x = half(scaled(dot, p.integer.score_scale) * scale);
  if (!p.bias) return x;
  const auto* numbers = static_cast<const std::byte*>(p.bias.data);
  return half(x + read_as<f16>(numbers + bias_place(p, s, n, i, j) * 2));
}

// Weights and values of one tile: the visible keys whose score is above −∞.
struct Tile {
  std::vector<double> score;
  std::vector<std::int64_t> key;
};

double quantised_weight(const Problem& p, double weight) {
  const double scale = half(std::clamp(double{p.integer.weight_scale}, -65504.0, 65504.0));
  return std::clamp(std::nearbyint(half(weight * scale)), -128.0, 127.0);
}

void add_tile(const Problem& p, const Sequence& s, std::int64_t n, const Tile& tile, IntegerRow& row) {
  const double top = *std::max_element(tile.score.begin(), tile.score.end());
  const double m = row.nothing ? top : std::max(row.max, top);
  const double alpha = row.nothing ? 0 : half(std::exp(half(row.max - m)));
  double sum = 0;
  std::vector<std::int64_t> shares(row.out.size(), 0);
  for (std::size_t at = 0; at < tile.key.size(); ++at) {
    const double weight = half(std::exp(half(tile.score[at] - m)));
    sum += weight;  // exact: at most 2^34 multiples of 2^-24
    for (std::size_t c = 0; c < shares.size(); ++c)
      shares[c] += static_cast<std::int64_t>(
          quantised_weight(p, weight) *
          read(p.value, s.batch, n / p.group(), s.key + tile.key[at], static_cast<std::int64_t>(c)));
  }
  row.nothing = false;
  row.max = m;
  row.sum = static_cast<float>(static_cast<float>(row.sum * alpha) + double{static_cast<float>(sum)});
  for (std::size_t c = 0; c < shares.size(); ++c) {
    const double share = scaled(shares[c], p.integer.value_scale);
    row.out[c] = half(std::fma(static_cast<float>(row.out[c]), static_cast<float>(alpha),
                               static_cast<float>(share)));  // rounded to fp32, then to a half
  }
}

}  // namespace

IntegerRow integer_row(const Problem& p, const Sequence& s, std::int64_t n, std::int64_t i) {
  IntegerRow row;
  row.out.assign(static_cast<std::size_t>(p.value.channels()), 0.0);
  bool nan = false;
  for (std::int64_t first = 0; first < s.keys; first += kTile) {
    Tile tile;
    for (std::int64_t j = first; j < std::min(s.keys, first + kTile); ++j) {
      if (!sees(p, s, n, i, j)) continue;
      const double x = half_score(p, s, n, i, j);
      nan |= !(x < INFINITY);
      if (x == -INFINITY) continue;
      tile.score.push_back(x);
      tile.key.push_back(j);
    }
    if (!nan && !tile.key.empty()) add_tile(p, s, n, tile, row);
  }
  if (nan) {
    row.nothing = false;
    row.max = row.sum = NAN;
    std::fill(row.out.begin(), row.out.end(), NAN);
  }
  if (row.nothing || nan) return row;
  row.max += 0.0;  // no negative zero
  const double divisor = half(std::min(row.sum, 65504.0));
  for (double& x : row.out) x = half(x / divisor);
  return row;
}

}  // namespace fusion_attention::ref
