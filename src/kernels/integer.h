// Attention of int8 operands, as include/fusion_attention/integer.h defines it: every rounding is part of the
// definition, so no sum that rounds may be reordered, and all arches give the same bits.
//
//   for tile of 1024 keys:          pack K (transposed) and V; both stay in L2
//     for head, 32-row block:       Q of it was packed once
//       for step of 32 keys:        S = Q·Kᵀ as int32, and of it the scores: halves, −∞ where hidden
//       for row:                    maximum of the tile, P by exp_half, its exact sum, P as int8
//       O = half(O·α + half(P·V))   with P·V in one product over the tile
//
// A task owns row ranges of all heads of one kv head, as in forward.h; there are no splits over keys.
#pragma once

#include <new>

#include "kernels/exp_half.h"
#include "kernels/pack_integer.h"
#include "kernels/partial.h"
#include "kernels/rate.h"
#include "kernels/softmax.h"

namespace fusion_attention::kernels {

inline constexpr std::int64_t kKeyTile = 1024;  // of the definition, from key 0 of the sequence

// The state of 32 rows between two tiles.
struct IntegerState {
  float m[kBlock];                     // maximum so far, a half; −∞: nothing seen
  float l[kBlock];                     // sum of P relative to it; 0: nothing seen
  bool nan[kBlock];                    // a visible score was NaN or +∞
  Interval visible[kBlock];            // local keys the row sees; empty past the last row
  const std::uint8_t* hidden[kBlock];  // the row of the dense mask, null without one
};

// Where everything of a task lies in its scratch.
template <class Format>
struct IntegerLayout {
  static constexpr int kGroups = static_cast<int>(kKeyTile / kGroupElements<Format>);  // of a tile of keys

  std::int64_t blocks;  // row blocks of all heads
  int columns;          // 32-wide column blocks of O
  std::size_t operand;  // bytes of one packed Q block or K step
  std::size_t states, queries, keys, key_sums, values, value_sums, outputs, scores, tops, weights, product,
      bytes;  // offsets; total

  FA_INLINE IntegerLayout(const Shape& shape, const Blocking& blocking) {
    blocks = shape.group * ceil_div(blocking.rows, kBlock);
    columns = static_cast<int>(ceil_div(shape.value_depth, kBlock));
    operand = operand_bytes<Format>(shape.depth);
    std::size_t at = 0;
    const auto take = [&](std::size_t size) {
      const std::size_t here = at;
      at += (size + kLine - 1) / kLine * kLine;
      return here;
    };
    states = take(blocks * sizeof(IntegerState));
    queries = take(blocks * operand);
    keys = take(kKeyTile / kBlock * operand);
    key_sums = take(kKeyTile * sizeof(std::int32_t));
    values = take(columns * kGroups * kGroupBytes);
    value_sums = take(columns * (kGroups + 1) * kBlock * sizeof(std::int32_t));
    outputs = take(blocks * columns * arch::kBlockFloats * sizeof(float));
    scores = take(kBlock * kKeyTile * sizeof(f16));
    tops = take(kBlock * kLanes * sizeof(float));
    weights = take(kGroups * kGroupBytes);
    product = take(arch::kBlockFloats * sizeof(float));
    bytes = at;
  }
};

template <class Arch, class Format>
class IntegerRun {
  using vec = typename Arch::vec;
  using State = IntegerState;
  static constexpr std::int64_t kGroupKeys = kGroupElements<Format>;

 public:
  IntegerRun(const ForwardArgs& args, const ForwardTask& task, std::byte* scratch)
      : a_(args),
        shape_(args.shape),
        t_(task),
        at_(args.shape, args.blocking),
        scratch_(scratch),
        scale_(saturated_half<Arch>(Arch::set(args.shape.scale))),
        weight_scale_(saturated_half<Arch>(Arch::set(args.integer.weight_scale))) {}

  void run() {
    for (std::int64_t b = 0; b < blocks(); ++b) start(b);
    const Interval reach = reached_keys(shape_, t_);
    for (tile_ = round_down(reach.begin, kKeyTile); tile_ < reach.end; tile_ += kKeyTile) {
      begin_ = greater(tile_, reach.begin), end_ = lesser(reach.end, tile_ + kKeyTile);
      pack();
      for (std::int64_t b = 0; b < blocks(); ++b) attend(b);
    }
    for (std::int64_t b = 0; b < blocks(); ++b)
      for (int r = 0; r < rows_of(b); ++r) finish(b, r);
  }

 private:
  // Row blocks are numbered head by head.
  std::int64_t row_blocks() const { return ceil_div(t_.row_end - t_.row_begin, kBlock); }
  std::int64_t blocks() const { return shape_.group * row_blocks(); }
  std::int64_t head_of(std::int64_t b) const { return t_.kv_head * shape_.group + b / row_blocks(); }
  std::int64_t row_of(std::int64_t b) const { return t_.row_begin + b % row_blocks() * kBlock; }
  int rows_of(std::int64_t b) const { return static_cast<int>(lesser(kBlock, t_.row_end - row_of(b))); }

  template <class T>
  T* scratch(std::size_t offset) const {
    return reinterpret_cast<T*>(scratch_ + offset);
  }
  State& state(std::int64_t b) const { return scratch<State>(at_.states)[b]; }
  std::byte* query(std::int64_t b) const { return scratch_ + at_.queries + b * at_.operand; }
  std::byte* packed_key(std::int64_t key) const {
    return scratch_ + at_.keys + (key - tile_) / kBlock * at_.operand;
  }
  std::int32_t* key_sums(std::int64_t key) const {
    return scratch<std::int32_t>(at_.key_sums) + (key - tile_);
  }
  std::byte* packed_value(int column, int group) const {
    return scratch_ + at_.values + (column * at_.kGroups + group) * kGroupBytes;
  }
  std::int32_t* value_sums(int column, int group) const {  // of the groups before this one
    return scratch<std::int32_t>(at_.value_sums) + (column * (at_.kGroups + 1) + group) * kBlock;
  }
  float* output(std::int64_t b) const {
    return scratch<float>(at_.outputs) + b * at_.columns * arch::kBlockFloats;
  }
  f16* scores(int r) const { return scratch<f16>(at_.scores) + r * kKeyTile; }
  float* tops(int r) const { return scratch<float>(at_.tops) + r * kLanes; }
  static Rows<std::int8_t> rows_at(const Operand& o, std::int64_t head, std::int64_t row) {
    return {o.data + head * o.head + row * o.row, o.row};
  }
  int group_of(std::int64_t key) const { return static_cast<int>((key - tile_) / kGroupKeys); }

  void start(std::int64_t b) {
    State& s = *new (&state(b)) State;
    const std::int64_t head = head_of(b), row = row_of(b);
    for (int r = 0; r < kBlock; ++r) {
      const bool real = r < rows_of(b);
      s.m[r] = -kInfinity;
      s.l[r] = 0;
      s.nan[r] = false;
      s.visible[r] = real ? visible_keys(shape_, t_, row + r) : Interval{};
      s.hidden[r] = real ? mask_row(shape_.overlay, head, row + r) : nullptr;
    }
    pack_a<Arch, Format>(rows_at(a_.query, head, row), rows_of(b), shape_.depth, query(b));
    raise<Format>(query(b), at_.operand / kLine);
    float* o = output(b);
    for (std::size_t i = 0; i < at_.columns * arch::kBlockFloats; i += kLanes)
      Arch::store(o + i, Arch::zero());
  }

  // K and V of the keys [begin_, end_). V from a whole group on: the keys in front of begin_ weigh nothing.
  void pack() {
    for (std::int64_t key = begin_; key < end_; key += kBlock) {
      pack_b_transposed<Arch, Format>(rows_at(a_.key.leading.rows, t_.kv_head, key),
                                      static_cast<int>(lesser(kBlock, end_ - key)), shape_.depth,
                                      packed_key(key));
      if constexpr (Format::kRaise != 0) {
        std::memset(key_sums(key), 0, kBlock * sizeof(std::int32_t));
        for (int g = 0; g < groups<Format>(shape_.depth); ++g)
          lower<Format>(packed_key(key) + g * kGroupBytes, key_sums(key));
      }
    }
    const int first = group_of(begin_), last = group_of(end_ - 1) + 1;
    const std::int64_t key = tile_ + first * kGroupKeys;
    for (int column = 0; column < at_.columns; ++column) {
      pack_integer_depth<Arch, Format>(rows_at(a_.value.leading.rows, t_.kv_head, key), end_ - key,
                                       column * kBlock, lesser(kBlock, shape_.value_depth - column * kBlock),
                                       packed_value(column, first));
      if constexpr (Format::kRaise != 0) {
        std::memset(value_sums(column, first), 0, kBlock * sizeof(std::int32_t));
        for (int g = first; g < last; ++g) {
          std::memcpy(value_sums(column, g + 1), value_sums(column, g), kBlock * sizeof(std::int32_t));
          lower<Format>(packed_value(column, g), value_sums(column, g + 1));
        }
      }
    }
  }

  // One row block against the packed tile.
  void attend(std::int64_t b) {
    State& s = state(b);
    const Interval &top = s.visible[0], &bottom = s.visible[rows_of(b) - 1];
    const std::int64_t first = greater(begin_, round_down(top.begin, kBlock)),
                       last = lesser(bottom.end, end_);
    if (first >= last) return;
    for (int r = 0; r < rows_of(b); ++r) Arch::store(tops(r), Arch::set(-kInfinity));
    for (std::int64_t key = first; key < last; key += kBlock) score_step(b, key);
    float alpha[kBlock];  // of O; negative: the tile is hidden from the row
    for (int r = 0; r < rows_of(b); ++r) alpha[r] = weigh(s, r, first, round_up(last, kBlock));
    add_values(b, first, last, alpha);
  }

  // The scores of 32 keys, and the maxima by lane, not yet rounded: rounding keeps their order.
  void score_step(std::int64_t b, std::int64_t key) {
    const State& s = state(b);
    const int rows = static_cast<int>(round_up(rows_of(b), 8));
    float* c = scratch<float>(at_.product);
    multiply<2>({query(b), packed_key(key), 0, 0, units<Format>(shape_.depth), rows}, key_sums(key), c);
    const Interval &top = s.visible[0], &bottom = s.visible[rows_of(b) - 1];
    const bool general =
        s.hidden[0] || shape_.bias.kind != BiasKind::none || key < bottom.begin || key + kBlock > top.end;
    for (int r = 0; r < rows_of(b); ++r)
      general ? score_row<true>(b, r, key, c + arch::c_offset(r, 0))
              : score_row<false>(b, r, key, c + arch::c_offset(r, 0));
  }

  template <bool General>
  FA_INLINE void score_row(std::int64_t b, int r, std::int64_t key, const float* c) {
    State& s = state(b);
    std::uint32_t seen = ~0u;
    if constexpr (General) seen = sees(s, r, key);
    vec top = Arch::load(tops(r));
    for (int half = 0; half < 2; ++half) {
      const vec dot = Arch::from_int32(Arch::load(c + half * 256));
      vec x = saturated_half<Arch>(Arch::mul(dot, Arch::set(a_.integer.score_scale)));
      x = saturate<Arch>(Arch::mul(x, scale_));  // the store rounds
      if constexpr (General) {
        const auto mask = static_cast<typename Arch::mask>(seen >> half * kLanes);
        if (shape_.bias.kind != BiasKind::none) {
          x = biased(b, r, key + half * kLanes, Arch::round_fp16(x));
          s.nan[r] |= (mask & ~Arch::greater(Arch::set(kInfinity), x)) != 0;
        }
        x = Arch::select(mask, x, Arch::set(-kInfinity));
      }
      Arch::store(scores(r) + (key - tile_) + half * kLanes, x);
      top = Arch::max(top, x);
    }
    Arch::store(tops(r), top);
  }

  // Bit j: row r sees key + j.
  FA_INLINE std::uint32_t sees(const State& s, int r, std::int64_t key) const {
    const std::uint32_t band = visible_bits(s.visible[r].begin - key, s.visible[r].end - key);
    if (!s.hidden[r]) return band;
    return band & ~hidden_bits<Arch>(s.hidden[r], shape_.overlay.key, key, lesser(kBlock, shape_.keys - key));
  }

  // x + bias, saturated; an infinite bias stays what it is.
  FA_INLINE vec biased(std::int64_t b, int r, std::int64_t key, vec x) const {
    const BiasPlane& bias = shape_.bias;
    const std::int64_t at = head_of(b) * bias.head + (row_of(b) + r) * bias.row + key;
    const vec number = load_some<Arch>(static_cast<const f16*>(bias.data) + at, shape_.keys - key);
    const vec sum = Arch::add(x, number);
    return Arch::select(Arch::unordered(number), sum, saturate<Arch>(sum));
  }

  // P of one row over the keys [first, last), whole steps, as int8 in the A format. Returns alpha, or −1.
  FA_INLINE float weigh(State& s, int r, std::int64_t first, std::int64_t last) {
    const float top = to_float(from_float<f16>(Arch::reduce_max(Arch::load(tops(r)))));
    if (top == -kInfinity || s.nan[r]) return -1.0f;
    const float m = top > s.m[r] ? top : s.m[r];
    alignas(64) float rescale[kLanes];
    Arch::store(rescale, exp_half<Arch>(Arch::round_fp16(Arch::set(s.m[r] - m))));
    const float alpha = rescale[0];
    const int group = group_of(first), groups = group_of(last - 1) + 1 - group;
    alignas(64) std::int8_t weights[kKeyTile];
    std::memset(weights, 0, groups * kGroupKeys);
    const std::int64_t origin = tile_ + group * kGroupKeys;
    const double sum = weigh_keys(scores(r) + (first - tile_), last - first, m, weights + (first - origin));
    for (int g = 0; g < groups; ++g) {
      std::byte* line = scratch_ + at_.weights + (group + g) * kGroupBytes + r * kLine;
      pack_line<Arch, Format>(weights + g * kGroupKeys, kGroupKeys, line, 0);
      raise<Format>(line, 1);
    }
    s.m[r] = m;
    // Product and sum each rounded to fp32, by way of double so that no compiler fuses them.
    const auto before = static_cast<float>(double{s.l[r]} * alpha);
    s.l[r] = static_cast<float>(double{before} + static_cast<float>(sum));
    return alpha;
  }

  // The int8 weights of n keys, a multiple of 32, and the exact sum of P. A P is a multiple of 2^-24: the
  // part down to 2^-12 and the rest are each summed without rounding, in up to 64 terms a lane.
  FA_INLINE double weigh_keys(const f16* score, std::int64_t n, float m, std::int8_t* weights) const {
    constexpr float kCut = 0x1.8p11f;  // plus and minus it: multiples of 2^-12
    const vec reference = Arch::set(m), cut = Arch::set(kCut);
    vec upper = Arch::zero(), lower = Arch::zero();
    for (std::int64_t j = 0; j < n; j += kLanes) {
      const vec p = exp_half<Arch>(Arch::round_fp16(Arch::sub(Arch::load(score + j), reference)));
      const vec high = Arch::sub(Arch::add(p, cut), cut);
      upper = Arch::add(upper, high);
      lower = Arch::add(lower, Arch::sub(p, high));
      Arch::store(weights + j, Arch::round_fp16(Arch::mul(p, weight_scale_)));
    }
    alignas(64) float high[kLanes], low[kLanes];
    Arch::store(high, upper);
    Arch::store(low, lower);
    double sum = 0;
    for (int i = 0; i < kLanes; ++i) sum += double{high[i]} + double{low[i]};
    return sum;
  }

  // O = half(O·alpha + half(P·V)) for the rows that see something of the keys [first, last).
  void add_values(std::int64_t b, std::int64_t first, std::int64_t last, const float* alpha) {
    const int rows = static_cast<int>(round_up(rows_of(b), 8));
    const int group = group_of(first), end = group_of(last - 1) + 1;
    float* c = scratch<float>(at_.product);
    for (int column = 0; column < at_.columns; ++column) {
      const arch::Operands pv{scratch_ + at_.weights + group * kGroupBytes,
                              packed_value(column, group),
                              0,
                              0,
                              (end - group) * arch::kGroupUnits,
                              rows};
      alignas(64) std::int32_t sums[kBlock];
      for (int i = 0; Format::kRaise != 0 && i < kBlock; ++i)
        sums[i] = value_sums(column, end)[i] - value_sums(column, group)[i];
      const int halves = shape_.value_depth - column * kBlock > kLanes ? 2 : 1;
      halves == 2 ? multiply<2>(pv, sums, c) : multiply<1>(pv, sums, c);
      float* o = output(b) + column * arch::kBlockFloats;
      for (int r = 0; r < rows_of(b); ++r) {
        if (alpha[r] < 0) continue;
        for (int half = 0; half < halves; ++half) {
          const std::size_t at = static_cast<std::size_t>(arch::c_offset(r, half));
          const vec dot = Arch::from_int32(Arch::load(c + at));
          const vec share = saturated_half<Arch>(Arch::mul(dot, Arch::set(a_.integer.value_scale)));
          // The product of two halves is exact in fp32.
          const vec sum = Arch::fma(Arch::load(o + at), Arch::set(alpha[r]), share);
          Arch::store(o + at, saturated_half<Arch>(sum));
        }
      }
    }
  }

  // C = A·B; `sums`: what raising A has added to it, negative.
  template <int Columns>
  FA_INLINE static void multiply(const arch::Operands& o, const std::int32_t* sums, float* c) {
    if constexpr (Format::kRaise != 0) begin_block(sums, o.rows, c);
    Arch::template block<Format, (Format::kRaise != 0), Columns>(o, c, arch::NoHook{});
  }

  // y = half(O / half(l)), stored; a row that saw nothing is 0.
  void finish(std::int64_t b, int r) {
    const State& s = state(b);
    const std::int64_t head = head_of(b), row = row_of(b) + r;
    constexpr float kNan = __builtin_nanf("");
    if (s.l[r] == 0 && !s.nan[r]) {
      clear_output(a_, head, row, sizeof(f16));
      store_statistics(a_.statistics, head, row, kNothing, 0);
      return;
    }
    alignas(64) float lane[kLanes];
    Arch::store(lane, saturated_half<Arch>(Arch::set(s.l[r])));
    const float divisor = lane[0];
    for (std::int64_t c = 0; c < shape_.value_depth; c += kLanes) {
      Arch::store(lane, Arch::load(output(b) + o_offset(r, c)));
      for (float& x : lane) x = s.nan[r] ? kNan : x / divisor;
      store_output<Arch, f16>(a_, head, row, c, Arch::load(lane));
    }
    // The zero of a maximum is positive: which of two came first is not for an arch to say.
    store_statistics(a_.statistics, head, row, s.nan[r] ? kNan : s.m[r] + 0.0f, s.nan[r] ? kNan : s.l[r]);
  }

  const ForwardArgs& a_;
  const Shape& shape_;
  const ForwardTask& t_;
  const IntegerLayout<Format> at_;
  std::byte* const scratch_;
  const vec scale_, weight_scale_;
  std::int64_t tile_ = 0, begin_ = 0, end_ = 0;  // first key of the tile; the keys of it that are packed
};

template <class Arch, class Format>
inline constexpr Forward kInteger{
    .scratch_bytes = [](const Shape& shape,
                        const Blocking& blocking) { return IntegerLayout<Format>(shape, blocking).bytes; },
    .run =
        [](const ForwardArgs& args, const ForwardTask& task, std::byte* scratch) {
          Arch::begin();
          IntegerRun<Arch, Format>(args, task, scratch).run();
          Arch::end();
        },
    .merge = nullptr,
    .rate = block_rate<Arch, Format>,
};

}  // namespace fusion_attention::kernels
