// The gradients of one kv head, from the caller's statistics and output.
//
//   S = scale·Q·Kᵀ   P = exp(S − max) / sum   dP = dO·Vᵀ   Δ = Σ dO∘O   dS = P∘(dP − Δ)   dbias = dS
//   dV = Pᵀ·dO       dK = scale·dSᵀ·Q         dQ = scale·dS·K
//
// Everything runs transposed (gradient.h). A task owns rows of all query heads of the kv head: it stores
// their dQ and adds up dK and dV in fp32 blocks, so that the sum over a group has one owner and nothing needs
// an atomic:
//
//   for head, super-block of queries:   pack Qᵀ, dOᵀ, Q, dO; L and Δ; dQᵀ = 0
//     for group of keys:                who sees what of it (seen_tiles.h); if anybody does: pack K and V of
//                                       the blocks that are seen, and Kᵀ
//       for 32 keys:
//         for 32 queries that see any:  Sᵀ with dSᵀ of the tile before, dPᵀ with Pᵀ
//         dV += Pᵀ·dO, dK += dSᵀ·Q      over those queries, run by run
//       dQᵀ += Kᵀ·dSᵀ                   over the keys of the group that 32 queries met, run by run
//     store dQ
//   store dK, dV, or add them to the share of the splits (GradientShare, kernels.h)
#pragma once

#include "kernels/backward_layout.h"
#include "kernels/gradient.h"
#include "kernels/rate.h"
#include "kernels/seen_tiles.h"

namespace fusion_attention::kernels {

template <class Arch, class Format, class T>
class BackwardRun {
  using vec = typename Arch::vec;
  using Step = GradientStep<Arch, Format>;
  static constexpr int kStepGroups = kBlock / kGroupElements<Format>;  // groups in 32 of depth

 public:
  BackwardRun(const BackwardArgs& args, const BackwardTask& task, std::byte* scratch)
      : a_(args),
        shape_(args.shape),
        t_(task),
        at_(args.shape, args.blocking, task.key_end - task.key_begin),
        scratch_(scratch),
        tiles_(shape_, at_.group_blocks,
               {.visible = reinterpret_cast<Interval*>(at(at_.visible)),
                .alive = words(at_.alive),
                .seen = reinterpret_cast<Seen*>(at(at_.seen)),
                .rows = words(at_.rows),
                .shown = words(at_.shown),
                .kept = words(at_.kept)}),
        scored_(shape_.bias.kind != BiasKind::none || shape_.dropout.on) {}

  void run() {
    for (std::int64_t g = 0; g < shape_.group; ++g)
      for (std::int64_t row = t_.row_begin; row < t_.row_end; row += a_.blocking.rows)
        super_block(t_.kv_head * shape_.group + g, row, lesser(row + a_.blocking.rows, t_.row_end));
    clear_gradients(at_.key_blocks);
    for (std::int64_t key = t_.key_begin; key < t_.key_end; ++key) {
      store_row(at_.dk, at_.columns, key, shape_.depth, shape_.scale, a_.key_gradient, 0);
      store_row(at_.dv, at_.value_columns, key, shape_.value_depth, shape_.dropout.inverse_keep,
                a_.value_gradient, (t_.share.key_end - t_.share.key_begin) * shape_.depth);
    }
  }

 private:
  std::byte* at(std::size_t offset) const { return scratch_ + offset; }
  float* floats(std::size_t offset) const { return reinterpret_cast<float*>(scratch_ + offset); }
  std::uint32_t* words(std::size_t offset) const { return reinterpret_cast<std::uint32_t*>(at(offset)); }
  float* c_block(std::size_t offset, std::int64_t index) const {
    return floats(offset) + index * arch::kBlockFloats;
  }
  static Rows<T> rows_at(const Operand& o, std::int64_t head, std::int64_t row) {
    return {o.data + head * o.head + row * o.row, o.row};
  }
  static void clear(float* c, std::int64_t blocks) {
    for (std::size_t i = 0; i < blocks * arch::kBlockFloats; i += kLanes) Arch::store(c + i, Arch::zero());
  }
  // dK and dV = 0 up to a block of keys, when it is first met: what is added to them finds them near.
  void clear_gradients(std::int64_t end) {
    for (; cleared_ < end; ++cleared_) {
      clear(c_block(at_.dk, cleared_ * at_.columns), at_.columns);
      clear(c_block(at_.dv, cleared_ * at_.value_columns), at_.value_columns);
    }
  }

  // Queries [begin, end) of one head against every key they see.
  void super_block(std::int64_t head, std::int64_t begin, std::int64_t end) {
    head_ = head, row_ = begin, rows_ = end - begin;
    used_ = ceil_div(rows_, kBlock);
    tiles_.start(head, begin, rows_);
    pack_queries();
    clear(floats(at_.dq), at_.columns * at_.query_blocks);
    const Interval reach = tiles_.reach();
    for (key_ = reach.begin; key_ < reach.end; key_ += a_.blocking.keys) {
      keys_ = lesser(a_.blocking.keys, shape_.keys - key_);
      key_group();
    }
    store_queries();
  }

  void pack_queries() {
    const Rows<T> q = rows_at(a_.query, head_, row_), d_o = rows_at(a_.output_gradient, head_, row_);
    for (std::int64_t b = 0; b < used_; ++b) {
      const int n = static_cast<int>(lesser(kBlock, rows_ - b * kBlock));
      pack_b_transposed<Arch, Format>(rows_at(a_.query, head_, row_ + b * kBlock), n, shape_.depth,
                                      at(at_.q_t + b * at_.depth_block));
      pack_b_transposed<Arch, Format>(rows_at(a_.output_gradient, head_, row_ + b * kBlock), n,
                                      shape_.value_depth, at(at_.do_t + b * at_.value_block));
      statistics(b, n);
    }
    nonfinite_queries_ = pack_columns<false>(q, rows_, shape_.depth, at_.query_plane, at(at_.q));
    nonfinite_queries_ |= pack_columns<false>(d_o, rows_, shape_.value_depth, at_.query_plane, at(at_.d_o));
  }

  // Depth is `rows` rows, one operand per 32 of their channels.
  template <bool Transposed>
  bool pack_columns(Rows<T> from, std::int64_t rows, std::int64_t channels, std::size_t plane,
                    std::byte* out) {
    bool nonfinite = false;
    const std::int64_t capacity = static_cast<std::int64_t>(plane / kGroupBytes) * kGroupElements<Format>;
    for (std::int64_t c = 0; c < channels; c += kBlock, out += Format::kPlanes * plane)
      nonfinite |=
          pack_depth<Arch, Format, Transposed>(from, rows, c, lesser(kBlock, channels - c), capacity, out);
    return nonfinite;
  }

  // L = log₂ e·max + log₂ sum and Δ = Σ dO∘O of one block of queries; a row that saw nothing is not alive.
  void statistics(std::int64_t b, int n) {
    std::uint32_t alive = 0;
    for (int r = 0; r < kBlock; ++r) {
      const std::int64_t row = row_ + b * kBlock + r;
      float log_sum = 0, delta = 0;
      const StatisticsPlane& s = a_.statistics;
      const std::int64_t entry = r < n ? (head_ * s.head + row * s.row) * s.copies : 0;
      if (r < n && s.max[entry] > kNothing) {
        alive |= std::uint32_t{1} << r;
        log_sum = s.max[entry] * kLog2E + __builtin_log2f(s.sum[entry]);
        delta = dot(rows_at(a_.output_gradient, head_, row)[0], rows_at(a_.output, head_, row)[0]);
      } else if (r < n && s.max[entry] != s.max[entry]) {  // a NaN row: it taints what it sees
        alive |= std::uint32_t{1} << r;
        log_sum = delta = s.max[entry];
      }
      floats(at_.log_sum)[b * kBlock + r] = log_sum;
      floats(at_.delta)[b * kBlock + r] = delta;
    }
    tiles_.set_alive(b, alive);
  }
  float dot(const T* x, const T* y) const {
    vec sum = Arch::zero();
    for (std::int64_t c = 0; c < shape_.value_depth; c += kLanes)
      sum = Arch::fma(load_some<Arch>(x + c, shape_.value_depth - c),
                      load_some<Arch>(y + c, shape_.value_depth - c), sum);
    return Arch::reduce_add(sum);
  }

  // Keys [key_, key_ + keys_).
  void key_group() {
    const Steps seen = tiles_.look(key_, keys_);
    if (seen == 0) return;
    pack_keys(seen);
    for (Steps left = seen; left != 0; left &= left - 1) key_block(first_step(left));
    for (std::int64_t query = 0; query < used_; ++query)
      each_run(tiles_.keys(query), [&](Interval keys) { add_to_queries(query, keys); });
  }

  // K and V of the blocks of keys that any query sees, and Kᵀ of all.
  void pack_keys(Steps seen) {
    for (; seen != 0; seen &= seen - 1) {
      const std::int64_t b = first_step(seen), key = key_ + b * kBlock;
      const int n = static_cast<int>(lesser(kBlock, keys_ - b * kBlock));
      pack_a<Arch, Format>(rows_at(a_.key, t_.kv_head, key), n, shape_.depth,
                           at(at_.k + b * at_.depth_block));
      pack_a<Arch, Format>(rows_at(a_.value, t_.kv_head, key), n, shape_.value_depth,
                           at(at_.v + b * at_.value_block));
    }
    nonfinite_keys_ = pack_columns<true>(rows_at(a_.key, t_.kv_head, key_), keys_, shape_.depth,
                                         at_.group_plane, at(at_.k_t));
  }

  // dQᵀ += Kᵀ·dSᵀ over some blocks of keys of the group.
  void add_to_queries(std::int64_t query, Interval keys) {
    const std::size_t skip = keys.begin * kStepGroups * kGroupBytes;
    const int depth = static_cast<int>(keys.size()) * kStepGroups * arch::kGroupUnits;
    for (int column = 0; column < at_.columns; ++column)
      Arch::template block<Format, true, 2>(arch::Operands{at(at_.k_t + column * at_.group_column + skip),
                                                           at(at_.ds_b + query * at_.group_column + skip),
                                                           at_.group_plane, at_.group_plane, depth},
                                            c_block(at_.dq, column * at_.query_blocks + query),
                                            arch::NoHook{});
  }

  // 32 keys against the queries that see any of them.
  void key_block(std::int64_t b) {
    const Steps queries = tiles_.queries(b);
    clear_gradients(gradient_block(key_) + b + 1);
    std::int64_t before = 0;
    int ring = 0;
    for (Steps left = queries; left != 0; left &= left - 1, ring ^= 1) {
      const std::int64_t query = first_step(left);
      // Sᵀ = K·Qᵀ, with dS of the tile before; then dPᵀ = V·dOᵀ, with P of this one.
      if (left == queries) {
        scores(b, query, ring, arch::NoHook{});
      } else {
        const Step pending = step_of(b, before, ring ^ 1);
        is_general(b, before) ? scores(b, query, ring, Gradient<true>{pending})
                              : scores(b, query, ring, Gradient<false>{pending});
        if (pending.keep_gradient) tile_of(b, before).add_gradient(pending.s);
      }
      const Step step = step_of(b, query, ring);
      if (step.bias) tile_of(b, query).fill_transposed(floats(at_.bias));
      is_general(b, query) ? value_scores(b, query, Probability<true>{step})
                           : value_scores(b, query, Probability<false>{step});
      before = query;
    }
    const Step last = step_of(b, before, ring ^ 1);
    const bool general = is_general(b, before);
    for (int r = 0; r < kBlock; ++r) general ? Gradient<true>{last}(r) : Gradient<false>{last}(r);
    if (last.keep_gradient) tile_of(b, before).add_gradient(last.s);
    each_run(queries, [&](Interval run) {
      accumulate(at_.p, at_.d_o, at_.dv, at_.value_columns, shape_.value_depth, b, run);  // dV += Pᵀ·dO
      accumulate(at_.ds, at_.q, at_.dk, at_.columns, shape_.depth, b, run);               // dK += dSᵀ·Q
    });
    if (nonfinite_queries_ || nonfinite_keys_) add_nonfinite(b, queries);
  }

  template <bool General>
  using Probability = GradientHook<ProbabilityRow<Arch, Format, General>, Step>;
  template <bool General>
  using Gradient = GradientHook<GradientRow<Arch, Format, General>, Step>;
  template <class Hook>
  void scores(std::int64_t b, std::int64_t query, int ring, Hook hook) {
    const std::size_t plane = plane_bytes<Format>(shape_.depth);
    Arch::template block<Format, false, 2>(
        arch::Operands{at(at_.k + b * at_.depth_block), at(at_.q_t + query * at_.depth_block), plane, plane,
                       units<Format>(shape_.depth)},
        c_block(at_.s, ring), hook);
  }
  template <class Hook>
  void value_scores(std::int64_t b, std::int64_t query, Hook hook) {
    const std::size_t plane = plane_bytes<Format>(shape_.value_depth);
    Arch::template block<Format, false, 2>(
        arch::Operands{at(at_.v + b * at_.value_block), at(at_.do_t + query * at_.value_block), plane, plane,
                       units<Format>(shape_.value_depth)},
        floats(at_.dp), hook);
  }

  // Some pair of the tile is hidden or does not exist, or there is a bias or dropout.
  bool is_general(std::int64_t b, std::int64_t query) const { return scored_ || tiles_.part(query, b); }

  BiasTile<Arch, T> tile_of(std::int64_t b, std::int64_t query) const {
    return {shape_,
            {.head = head_,
             .row = row_ + query * kBlock,
             .key = key_ + b * kBlock,
             .rows = static_cast<int>(lesser(kBlock, rows_ - query * kBlock)),
             .keys = static_cast<int>(lesser(kBlock, keys_ - b * kBlock))}};
  }

  Step step_of(std::int64_t b, std::int64_t query, int ring) const {
    const std::size_t group = query * kStepGroups * kGroupBytes;
    return {.s = c_block(at_.s, ring),
            .dp = floats(at_.dp),
            .log_sum = floats(at_.log_sum) + query * kBlock,
            .delta = floats(at_.delta) + query * kBlock,
            .shown = tiles_.shown(query, b),
            .scale = shape_.scale * kLog2E,
            .p = at(at_.p + group),
            .ds = at(at_.ds + group),
            .a_plane = at_.query_plane,
            .ds_b = at(at_.ds_b + query * at_.group_column + b * kStepGroups * kGroupBytes),
            .b_plane = at_.group_plane,
            .carry = floats(at_.carry),
            .bias = shape_.bias.kind != BiasKind::none ? floats(at_.bias) : nullptr,
            .kept = shape_.dropout.on ? tiles_.kept(query, b) : nullptr,
            .inverse_keep = shape_.dropout.inverse_keep,
            .keep_gradient = shape_.bias.gradient != nullptr};
  }

  // C[32 keys × channels] += A·B over the blocks of queries.
  void accumulate(std::size_t a, std::size_t b, std::size_t c, int columns, std::int64_t channels,
                  std::int64_t key_block, Interval blocks) {
    const std::size_t skip = blocks.begin * kStepGroups * kGroupBytes;
    const int depth = static_cast<int>(blocks.size()) * kStepGroups * arch::kGroupUnits;
    const std::int64_t block = gradient_block(key_) + key_block;
    for (int column = 0; column < columns; ++column) {
      const arch::Operands o{at(a + skip), at(b + column * at_.query_column + skip), at_.query_plane,
                             at_.query_plane, depth};
      float* to = c_block(c, block * columns + column);
      if (channels - column * kBlock > kLanes) {
        Arch::template block<Format, true, 2>(o, to, arch::NoHook{});
      } else {
        Arch::template block<Format, true, 1>(o, to, arch::NoHook{});
      }
    }
  }

  // What packing left out of Q, dO and K (infinities, NaN), to the pairs that are visible and to no other.
  [[gnu::noinline]] void add_nonfinite(std::int64_t b, Steps queries) {
    for (; queries != 0; queries &= queries - 1) {
      const std::int64_t query = first_step(queries);
      const std::byte* p_tile = at(at_.p + query * kStepGroups * kGroupBytes);
      const std::byte* ds_tile = at(at_.ds + query * kStepGroups * kGroupBytes);
      for (int r = 0; r < kBlock; ++r) {
        const std::int64_t key = key_ + b * kBlock + r;
        const std::uint32_t bits = tiles_.shown(query, b)[r];
        for (int lane = 0; lane < kBlock; ++lane) {
          if (!(bits >> lane & 1)) continue;
          const std::int64_t row = row_ + query * kBlock + lane, block = gradient_block(key);
          const float p = value_of(p_tile, r, lane), ds = value_of(ds_tile, r, lane);
          add_row(p, rows_at(a_.output_gradient, head_, row)[0], shape_.value_depth, [&](std::int64_t c) {
            return c_block(at_.dv, block * at_.value_columns) + o_offset(r, c);
          });
          add_row(ds, rows_at(a_.query, head_, row)[0], shape_.depth,
                  [&](std::int64_t c) { return c_block(at_.dk, block * at_.columns) + o_offset(r, c); });
          add_row(ds, rows_at(a_.key, t_.kv_head, key)[0], shape_.depth, [&](std::int64_t c) {
            return c_block(at_.dq, c / kBlock * at_.query_blocks + query) +
                   arch::c_offset(static_cast<int>(c % kBlock), lane / kLanes) + lane % kLanes;
          });
        }
      }
    }
  }
  template <class Place>
  static void add_row(float weight, const T* from, std::int64_t channels, Place place) {
    for (std::int64_t c = 0; c < channels; ++c) {
      const float x = to_float(from[c]);
      if (x - x != 0.0f) *place(c) += weight * x;
    }
  }
  float value_of(const std::byte* tile, int r, int lane) const {
    const std::byte* line = tile + lane / kGroupElements<Format> * kGroupBytes + r * kLine;
    return a_element<Format>(line, at_.query_plane, lane % kGroupElements<Format>);
  }

  // dQ = scale·(dQᵀ)ᵀ of the super-block.
  void store_queries() {
    for (std::int64_t b = 0; b < used_; ++b)
      for (std::int64_t c = 0; c < shape_.depth; c += kLanes)
        for (int half = 0; half < 2; ++half) {
          vec tile[kLanes];
          const float* from = c_block(at_.dq, c / kBlock * at_.query_blocks + b) +
                              arch::c_offset(static_cast<int>(c % kBlock), half);
          for (int i = 0; i < kLanes; ++i) tile[i] = Arch::load(from + i * kLanes);
          Arch::transpose(tile);
          const std::int64_t first = b * kBlock + half * kLanes;
          for (int i = 0; i < lesser(kLanes, rows_ - first); ++i) {
            const std::int64_t row = row_ + first + i;
            T* to = reinterpret_cast<T*>(a_.query_gradient.data + head_ * a_.query_gradient.head +
                                         row * a_.query_gradient.row);
            store_some<Arch>(to + c, Arch::mul(tile[i], Arch::set(shape_.scale)), shape_.depth - c);
          }
        }
  }

  // The block of dK and dV that a key belongs to.
  std::int64_t gradient_block(std::int64_t key) const { return (key - t_.key_begin) / kBlock; }

  // One key's row of dK or dV: as this split's share, added to those before it in a chain; or finished, where
  // it is the only split or the last of a chain.
  void store_row(std::size_t blocks, int columns, std::int64_t key, std::int64_t channels, float factor,
                 const Operand& out, std::int64_t share_offset) {
    const float* from =
        c_block(blocks, gradient_block(key) * columns) + arch::c_offset(static_cast<int>(key % kBlock), 0);
    float* share = t_.share.data;
    if (share) share += share_offset + (key - t_.share.key_begin) * channels;
    for (std::int64_t c = 0; c < channels; c += kLanes) {
      const vec before = t_.share.add ? load_some<Arch>(share + c, channels - c) : Arch::zero();
      const vec x =
          Arch::add(before, Arch::load(from + c / kBlock * arch::kBlockFloats + c % kBlock / kLanes * 256));
      if (share && !t_.share.last) {
        store_some<Arch>(share + c, x, channels - c);
      } else {
        T* to = reinterpret_cast<T*>(out.data + t_.kv_head * out.head + key * out.row);
        store_some<Arch>(to + c, Arch::mul(x, Arch::set(factor)), channels - c);
      }
    }
  }

  const BackwardArgs& a_;
  const Shape& shape_;
  const BackwardTask& t_;
  const BackwardLayout<Arch, Format> at_;
  std::byte* const scratch_;
  SeenTiles<Arch> tiles_;
  const bool scored_;
  std::int64_t head_ = 0, row_ = 0, rows_ = 0,
               used_ = 0;            // the super-block: head, first query, queries, blocks of them
  std::int64_t key_ = 0, keys_ = 0;  // the group of keys
  std::int64_t cleared_ = 0;         // blocks of keys whose dK and dV have begun
  bool nonfinite_queries_ = false, nonfinite_keys_ = false;
};

// dK and dV of some keys from the shares of all splits, added in index order.
template <class Arch, class T>
void merge_gradients(const BackwardArgs& a, const BackwardMergeTask& t) {
  const Shape& shape = a.shape;
  // `before`: channels that lie before these in a share.
  const auto merge = [&](const Operand& out, std::int64_t before, std::int64_t channels, float factor) {
    for (std::int64_t key = t.key_begin; key < t.key_end; ++key)
      for (std::int64_t c = 0; c < channels; c += kLanes) {
        auto sum = Arch::zero();
        for (int i = 0; i < t.count; ++i) {
          const BackwardSplit& s = t.splits[i];
          if (key < s.key_begin || key >= s.key_end) continue;
          const float* share = t.partials + s.share + (s.key_end - s.key_begin) * before;
          sum = Arch::add(sum, load_some<Arch>(share + (key - s.key_begin) * channels + c, channels - c));
        }
        T* to = reinterpret_cast<T*>(out.data + t.kv_head * out.head + key * out.row);
        store_some<Arch>(to + c, Arch::mul(sum, Arch::set(factor)), channels - c);
      }
  };
  merge(a.key_gradient, 0, shape.depth, shape.scale);
  merge(a.value_gradient, shape.depth, shape.value_depth, shape.dropout.inverse_keep);
}

template <class Arch, class Format, class T>
inline constexpr Backward kBackward{
    .scratch_bytes =
        [](const Shape& shape, const Blocking& blocking) {
          return BackwardLayout<Arch, Format>(shape, blocking, shape.keys).bytes;
        },
    .run =
        [](const BackwardArgs& args, const BackwardTask& task, std::byte* scratch) {
          Arch::begin();
          BackwardRun<Arch, Format, T>(args, task, scratch).run();
          Arch::end();
        },
    .merge = merge_gradients<Arch, T>,
    .rate = block_rate<Arch, Format>,
    .show = show_rows<Arch>,
};

}  // namespace fusion_attention::kernels
