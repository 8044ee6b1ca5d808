// Random problems: sizes around the edges of tiles and blocks, every form of mask, bounded work.
#pragma once

#include <algorithm>
#include <memory>

#include "problem/planes.h"
#include "support/case.h"

namespace fusion_attention::testing {

inline constexpr std::int64_t kMostScores = 120'000;  // heads × Σ rows × keys: the reference takes a few ms

class Draw {
 public:
  explicit Draw(std::uint64_t seed) : random_(seed) {}

  template <class T>
  T pick(std::initializer_list<T> options) {
    return options.begin()[random_() % options.size()];
  }
  std::int64_t between(std::int64_t low, std::int64_t high) {
    return low + static_cast<std::int64_t>(random_() % static_cast<std::uint64_t>(high - low + 1));
  }
  std::uint64_t number() { return random_(); }
  bool one_in(unsigned n) { return random_() % n == 0; }
  std::int64_t length() {
    return pick<std::int64_t>(
        {1, 2, 7, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 96, 97, 127, 128, 129, 200, 255, 257, 300, 513});
  }
  std::int64_t depth() {
    if (one_in(40)) return between(257, 768);
    return pick<std::int64_t>(
        {1, 2, 3, 8, 12, 15, 16, 17, 24, 31, 32, 33, 40, 47, 64, 64, 72, 80, 96, 128, 128, 160, 192, 256});
  }
  Band band(std::int64_t rows, std::int64_t keys) {
    const std::int64_t corner = keys - rows, reach = std::max(rows, keys);
    switch (between(0, 6)) {
      case 0:
        return {.hi = 0};
      case 1:
        return {.hi = corner};
      case 2:
        return {.lo = corner - between(-3, reach), .hi = corner + between(-3, reach)};
      case 3:
        return {.lo = -between(0, reach), .hi = between(0, reach)};
      case 4:
        return {.hi = corner, .prefix = between(0, keys)};
      case 5:
        return {.lo = -32 * between(0, 4),
                .hi = 32 * between(1, 3) - 1,
                .prefix = 0,
                .block = 32,
                .reach = one_in(2) ? between(-3, 40) : Band::kFar};
      default:
        return {};
    }
  }

 private:
  std::mt19937_64 random_;
};

// Packed sequences in tensors that may be longer than they are: some empty, some with rows or keys between
// them that belong to none, in any order; in the forward two may share their keys (a common prefix).
inline void pack_sequences(Draw& draw, Problem& p, std::int64_t count) {
  p.sequences.clear();
  std::int64_t row = 0, key = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t rows = draw.one_in(6) ? 0 : draw.length() / 2,
                       keys = draw.one_in(6) ? 0 : draw.length() / 2;
    if (draw.one_in(6)) row += draw.between(1, 3), key += draw.between(1, 3);
    p.sequences.push_back(
        {.batch = 0, .row = row, .rows = rows, .key = key, .keys = keys, .band = draw.band(rows, keys)});
    row += rows, key += keys;
    if (p.pass == Pass::forward && draw.one_in(6)) {
      p.sequences.push_back(p.sequences.back());
      p.sequences.back().row = row;
      row += rows;
    }
  }
  if (draw.one_in(3)) std::reverse(p.sequences.begin(), p.sequences.end());
}

// A shard of a longer sequence: its rows and keys count from elsewhere, and mostly the band with them.
inline void shift(Draw& draw, Sequence& s) {
  s.row0 = draw.between(0, 200), s.key0 = draw.between(0, 200);
  if (draw.one_in(3)) return;
  const std::int64_t by = s.key0 - s.row0;
  if (s.band.lo != -Band::kFar) s.band.lo += by;
  if (s.band.hi != Band::kFar) s.band.hi += by;
  if (s.band.reach != Band::kFar) s.band.reach += by;
  if (s.band.prefix) s.band.prefix += s.key0;
}

// The address of what is described only: Case gives it memory.
alignas(8) inline constexpr std::uint8_t kDescribed[8] = {};

// A dense mask over the axes that a draw picks, described by its strides; Case gives it memory.
inline void describe_overlay(Draw& draw, Problem& p) {
  p.overlay.data = kDescribed;
  std::int64_t stride = 1;
  const std::int64_t sizes[] = {p.query.batches(), p.query.heads(), p.query.rows(), p.key.rows()};
  for (std::size_t axis = 4; axis-- > 0;) {
    const bool present = axis >= 2 ? !draw.one_in(8) : draw.one_in(2);
    p.overlay.stride[axis] = present ? stride : 0;
    if (present) stride *= std::max<std::int64_t>(sizes[axis], 1);
  }
}

inline Problem random_problem(Draw& draw, Pass pass) {
  while (true) {
    const auto dtype = draw.pick({Dtype::float32, Dtype::float16, Dtype::bfloat16});
    const std::int64_t kv_heads = draw.pick<std::int64_t>({1, 1, 2, 3}),
                       group = draw.pick<std::int64_t>({1, 1, 2, 4, 5});
    const std::int64_t depth = draw.depth(), value_depth = draw.one_in(3) ? draw.depth() : depth;
    const std::int64_t rows = draw.one_in(4)    ? draw.between(1, 4)
                              : draw.one_in(25) ? 1025 + draw.between(0, 64)
                                                : draw.length();
    const std::int64_t keys = draw.one_in(25) ? 1025 + draw.between(0, 200) : draw.length();
    const double scale = draw.pick({1 / std::sqrt(static_cast<double>(depth)),
                                    1 / std::sqrt(static_cast<double>(depth)), 1.0, -0.3, 0.0});
    const std::int64_t batches = draw.pick<std::int64_t>({1, 1, 2, 3});
    Problem p = dense_problem(pass, dtype, batches, kv_heads * group, kv_heads, rows, keys, depth,
                              value_depth, scale, draw.band(rows, keys));
    if (draw.one_in(4)) {
      pack_sequences(draw, p, draw.between(1, 5));
      std::int64_t all_rows = 0, all_keys = 0;
      for (const Sequence& s : p.sequences)
        all_rows = std::max(all_rows, s.row + s.rows), all_keys = std::max(all_keys, s.key + s.keys);
      const auto sequences = p.sequences;
      p = dense_problem(pass, dtype, 1, kv_heads * group, kv_heads, all_rows + draw.between(0, 5),
                        all_keys + draw.between(0, 5), depth, value_depth, scale, {});
      p.sequences = sequences;
    } else if (draw.one_in(12)) {
      p.sequences.erase(p.sequences.begin());  // a batch entry that nothing covers
    }
    if (draw.one_in(4))
      for (Sequence& s : p.sequences) shift(draw, s);
    std::int64_t scores = 0;
    for (const Sequence& s : p.sequences) scores += s.rows * s.keys * kv_heads * group;
    if (scores * (depth + value_depth) > kMostScores * 128) continue;
    if (draw.one_in(4)) describe_overlay(draw, p);
    if (draw.one_in(3)) p.statistics.order = StatisticsOrder::row_major;
    if (draw.one_in(4)) p.statistics.copies = 1;
    return p;
  }
}

inline float* described_gradient() {
  static float gradient = 0;
  return &gradient;
}

// Rows as keys, and a band that shows no key after its row.
inline void make_causal(Draw& draw, Problem& p) {
  for (Sequence& s : p.sequences) {
    s.rows = s.keys = std::min(s.rows, s.keys);
    s.row0 = s.key0 = draw.one_in(2) ? 0 : draw.between(0, 100);
    s.band = {.lo = draw.one_in(2) ? -Band::kFar : -draw.between(0, s.rows), .hi = -draw.between(0, 1)};
  }
}

inline void describe_bias(Draw& draw, Problem& p) {
  p.bias.kind = draw.pick({BiasKind::dense, BiasKind::dense, BiasKind::distance, BiasKind::root_distance});
  const bool dense = p.bias.kind == BiasKind::dense;
  if (dense) {
    p.bias.dtype = draw.pick({Dtype::float32, p.query.dtype});
    p.bias.before_scale = draw.one_in(2);
    if (draw.one_in(4)) {
      make_causal(draw, p);
      p.bias.last_rows = draw.between(1, draw.pick<std::int64_t>({4, 70, 300}));
    }
  }
  if (p.pass == Pass::backward && !draw.one_in(3)) p.bias.gradient = described_gradient();
  natural_bias(p, {draw.one_in(2), !draw.one_in(4), !draw.one_in(4)}, numbering_of(p));
  const bool far = draw.one_in(3);
  for (Sequence& s : p.sequences)
    if (!dense) s.bias_shift = far ? draw.between(-700, 700) : draw.between(-1, 1);
  if (!dense || !draw.one_in(3)) return;
  // The slice of a larger array: rows and heads farther apart, an origin.
  const std::int64_t origin = draw.between(0, 9), apart = draw.between(0, 9);
  std::int64_t last = 0;
  for (Sequence& s : p.sequences) {
    const std::int64_t rows = p.bias.last_rows ? p.bias.last_rows : s.rows;
    if (s.bias.row) s.bias.row += apart;
    if (s.bias.head) s.bias.head += (rows + 1) * apart;
    s.bias.base += origin;
    last = std::max(last, s.bias.base + std::max<std::int64_t>(rows - 1, 0) * s.bias.row +
                              (p.query.heads() - 1) * s.bias.head + std::max<std::int64_t>(s.keys, 1));
  }
  p.bias.elements = last + draw.between(0, 3);
}

inline void describe_dropout(Draw& draw, Problem& p) {
  p.dropout = {.keep_prob = 0.01 * static_cast<double>(draw.between(10, 95)),
               .seed = draw.one_in(2) ? draw.number() : draw.number() % 100,
               .offset = draw.one_in(2) ? draw.number() : 0};
  std::int64_t count = natural_dropout(p, numbering_of(p));
  if (draw.one_in(3)) {  // a shard: columns of longer rows, and an origin, past 2^32 without bits
    const std::int64_t apart = draw.between(0, 9),
                       origin = draw.between(0, draw.one_in(2) ? 50 : std::int64_t{1} << 40);
    for (Sequence& s : p.sequences) {
      s.dropout.row += apart, s.dropout.head += (s.rows + 1) * apart, s.dropout.base += origin;
      count = std::max(count, s.dropout.base + (p.query.heads() - 1) * s.dropout.head +
                                  std::max<std::int64_t>(s.rows - 1, 0) * s.dropout.row + s.keys);
    }
  }
  if (!draw.one_in(4) || count > 1 << 24) return;
  p.dropout.bits = kDescribed;
  p.dropout.bytes = (count + 7) / 8 + draw.between(0, 1);
}

// Gives a problem a bias, dropout, sinks, by draw; mostly one or two of them.
inline void with_scores(Draw& draw, Problem& p) {
  if (draw.one_in(2)) describe_bias(draw, p);
  if (draw.one_in(2)) describe_dropout(draw, p);
  if (draw.one_in(3)) {
    p.sink.data = reinterpret_cast<const float*>(kDescribed);
    if (p.pass == Pass::backward && !draw.one_in(3)) p.sink.gradient = described_gradient();
  }
}

// int8 results and scores rounded to halves, by draw.
inline void with_rounding(Draw& draw, Problem& p) {
  if (p.pass == Pass::backward) return;
  p.half_scores = p.query.dtype == Dtype::float16 && draw.one_in(3);
  if (!draw.one_in(4)) return;
  p.output.dtype = Dtype::int8;
  p.output_scaling.scale = reinterpret_cast<const float*>(kDescribed);
  p.output_scaling.channels = draw.one_in(2) ? 1 : p.query.heads() * p.value.channels();
  if (draw.one_in(2)) p.output_scaling.offset = p.output_scaling.scale;
}

// Of bias, dropout, sinks and roundings nothing, or what with_scores() and with_rounding() draw.
enum class Scores { plain, joined };

inline std::unique_ptr<Case> random_case(std::uint64_t seed, Pass pass, bool infinities = true,
                                         Scores scores = Scores::plain) {
  Draw draw(seed);
  Problem p = random_problem(draw, pass);
  if (scores == Scores::joined) with_scores(draw, p), with_rounding(draw, p);
  auto fill = draw.pick({Fill::normal, Fill::normal, Fill::large, Fill::growing, Fill::tiny, Fill::constant});
  if (pass == Pass::forward && draw.one_in(12)) fill = Fill::extreme;
  auto made = std::make_unique<Case>(p, seed, fill, Layout::random);
  if (draw.one_in(8)) made->plant_nonfinite(infinities);
  if (pass == Pass::backward) made->forward_first(draw.one_in(4) ? 3.0 : 1.0);
  if (pass == Pass::forward && draw.one_in(12))
    made->problem.statistics.max = made->problem.statistics.sum = nullptr;
  made->poison_outputs();
  return made;
}

}  // namespace fusion_attention::testing
