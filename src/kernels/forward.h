// One block of query rows against all the keys its mask can reach.
//
//   S = scale·Q·Kᵀ      P = softmax(S)      O = P·V
//
// S and P never leave L1. A task owns a super-block of rows of every query head of one kv head and walks the
// keys in chunks that it packs for itself, so each packed key serves group × rows queries:
//
//   for chunk of keys:            pack K (transposed) and V; both stay in L2
//     for head, 32-row block:     Q of it was packed once
//       for step of 32 keys:      S(g) = Q·K(g)ᵀ, and between its multiplications the softmax of S(g−1)
//       every round trip:         O += P·V, so that O is loaded and stored once per round_trip keys
//
// Which steps of a chunk a block sees, in part or in full, is asked before the chunk is packed (visible.h);
// the others are passed over. A slice is what a chunk has of one round trip.
//
// Chunks and round trips are anchored at key 0 of the sequence, whatever a task sees of them: they are the
// order in which O is summed, which must not depend on how rows are divided among threads.
//
// The softmax of the last step of a block is woven into the first product of the next block: the pipeline
// drains once per chunk only.
#pragma once

#include <algorithm>
#include <new>
#include <type_traits>

#include "kernels/forward_layout.h"
#include "kernels/partial.h"
#include "kernels/rate.h"
#include "kernels/softmax.h"

namespace fusion_attention::kernels {

template <class Arch, class Format, class T>
class ForwardRun {
  using Block = RowBlock<Arch>;
  static constexpr int kStepGroups = SoftmaxStep<Arch, Format>::kStepGroups;
  static constexpr AllShown kAllShown{};

 public:
  ForwardRun(const ForwardArgs& args, const ForwardTask& task, std::byte* scratch)
      : a_(args),
        shape_(args.shape),
        t_(task),
        at_(args.shape, args.blocking),
        scratch_(scratch),
        keys_(args.key, task.kv_head, shape_.depth, scratch + at_.step),
        values_(args.value, task.kv_head, shape_.value_depth, scratch + at_.step),
        value_in_key_(holds(args.key, args.value)),
        scored_(shape_.dropout.on || shape_.bias.kind != BiasKind::none),
        together_(task_rows() < kBlock && shape_.group > 1 && !scored_) {}

  void run() {
    new (&raises()) Raises;
    for (std::int64_t b = 0; b < blocks(); ++b) start(b);
    const Interval reach = reached_keys(shape_, t_);
    for (chunk_ = reach.begin; chunk_ < reach.end;) {
      const std::int64_t end = lesser(reach.end, round_down(chunk_, a_.blocking.keys) + a_.blocking.keys);
      pack(end, look(end));
      for (std::int64_t b = 0; b < blocks(); ++b) attend(block(b));
      drain();
      chunk_ = end;
    }
    for (std::int64_t b = 0; b < blocks(); ++b) finish(block(b));
  }

 private:
  // Row blocks are numbered head by head. Few rows would leave them empty: then the rows of all heads are
  // numbered together, the heads of a row side by side, so that what is seen still grows along a block.
  std::int64_t task_rows() const { return t_.row_end - t_.row_begin; }
  std::int64_t row_blocks() const { return ceil_div(task_rows(), kBlock); }
  std::int64_t blocks() const {
    return together_ ? ceil_div(shape_.group * task_rows(), kBlock) : shape_.group * row_blocks();
  }
  std::int64_t first_head() const { return t_.kv_head * shape_.group; }
  Block& block(std::int64_t b) const { return reinterpret_cast<Block*>(scratch_ + at_.rows)[b]; }
  float* scores(int ring) const { return floats(at_.scores) + ring * arch::kBlockFloats; }
  float* floats(std::size_t offset) const { return reinterpret_cast<float*>(scratch_ + offset); }

  // Rows of a block that are multiplied; an arch may compute more, of whatever lies there.
  static int multiplied(const Block& b) { return static_cast<int>(round_up(b.rows, 8)); }

  // visit(r, head, row) of every row of a block.
  template <class Visit>
  FA_INLINE void each_row(const Block& b, const Visit& visit) const {
    std::int64_t head = b.head, row = b.row;
    for (int r = 0; r < b.rows; ++r) {
      visit(r, head, row);
      if (together_ && ++head < first_head() + shape_.group) continue;
      if (together_) head = first_head();
      ++row;
    }
  }

  void start(std::int64_t index) {
    Block& b = *new (&block(index)) Block;
    const std::int64_t first = index * kBlock;
    if (together_) {
      b.head = first_head() + first % shape_.group, b.row = t_.row_begin + first / shape_.group;
      b.rows = static_cast<int>(lesser(kBlock, shape_.group * task_rows() - first));
    } else {
      b.head = first_head() + index / row_blocks(), b.row = t_.row_begin + index % row_blocks() * kBlock;
      b.rows = static_cast<int>(lesser(kBlock, t_.row_end - b.row));
    }
    b.query = scratch_ + at_.queries + index * at_.q;
    b.output = floats(at_.outputs) + index * at_.columns * arch::kBlockFloats;
    const T* query[kBlock];
    each_row(b, [&](int r, std::int64_t head, std::int64_t row) {
      b.state.start(r, visible_keys(shape_, t_, row), mask_row(shape_.overlay, head, row));
      query[r] = reinterpret_cast<const T*>(a_.query.data + head * a_.query.head + row * a_.query.row);
    });
    for (int r = b.rows; r < kBlock; ++r) b.state.start(r, {}, nullptr);
    pack_a<Arch, Format>(query, b.rows, shape_.depth, b.query, multiplied(b));
  }

  // What every block sees of the keys [chunk_, end); returns the steps that any of them sees.
  Steps look(std::int64_t end) {
    Steps some = 0;
    for (std::int64_t i = 0; i < blocks(); ++i) {
      Block& b = block(i);
      const auto& visible = b.state.visible;
      b.seen = seen_by_band(visible[0], visible[b.rows - 1], chunk_, end);
      if (shape_.overlay.data) b.seen = look_through_mask(i, b);
      some |= b.seen.some;
    }
    return some;
  }
  Seen look_through_mask(std::int64_t index, Block& b) {
    const OverlayPlane& mask = shape_.overlay;
    if (mask.words && !together_ && !t_.partial) {
      b.words = mask.words + b.row * round_up(shape_.keys, kBlock) / kBlock + chunk_;
      return seen_in_words<Arch>(b.words, b.seen.some);
    }
    // A mask without heads looks the same to all of them.
    const std::int64_t same = mask.head == 0 && !together_ ? index % row_blocks() : index;
    auto* words = reinterpret_cast<std::uint32_t*>(scratch_ + at_.words) + same * a_.blocking.keys;
    b.words = words;
    if (same != index) return block(same).seen;
    const Block& next = block(index + 1 < blocks() ? index + 1 : index);
    show<Arch>({b.state.visible, b.state.hidden, next.state.hidden, b.rows, shape_.keys, mask.key}, b.seen,
               chunk_, words);
    return seen_in_words<Arch>(words, b.seen.some);
  }

  // K of the steps `some`, and V of the round trips that they are in: P is zero where nobody sees them, and
  // V must be finite there.
  void pack(std::int64_t end, Steps some) {
    nonfinite_ = false;
    for (std::int64_t key = chunk_; key < end; key += kBlock) {
      const int n = static_cast<int>(lesser(kBlock, end - key));
      const bool seen = some >> (key - chunk_) / kBlock & 1;
      if (!seen && !(some & steps_of_slice(key))) continue;
      const Rows<T> keys = seen || value_in_key_ ? keys_.step(key, n, end).rows() : Rows<T>{};
      if (seen) pack_b_transposed<Arch, Format>(keys, n, shape_.depth, packed_key(key));
      const Rows<T> values = value_in_key_ ? keys : values_.step(key, n, end).rows();
      for (int column = 0; column < at_.columns; ++column)
        nonfinite_ |= pack_depth<Arch, Format, false>(
            values, n, column * kBlock, lesser(kBlock, shape_.value_depth - column * kBlock),
            a_.blocking.round_trip,
            packed_value(slice_of(key), column) + step_of(key) * kStepGroups * kGroupBytes);
    }
  }
  // The round trip of the chunk that a key belongs to, its steps of the chunk, and the step of a key in it.
  std::int64_t slice_of(std::int64_t key) const {
    return key / a_.blocking.round_trip - chunk_ / a_.blocking.round_trip;
  }
  Steps steps_of_slice(std::int64_t key) const {
    const std::int64_t begin = round_down(key, a_.blocking.round_trip) - chunk_;
    return steps_below((begin + a_.blocking.round_trip) / kBlock) & ~steps_below(greater(begin, 0) / kBlock);
  }
  int step_of(std::int64_t key) const { return static_cast<int>(key % a_.blocking.round_trip / kBlock); }
  std::byte* packed_key(std::int64_t key) const {
    return scratch_ + at_.keys + (key - chunk_) / kBlock * at_.k;
  }
  std::byte* packed_value(std::int64_t slice, int column) const {
    return scratch_ + at_.values + slice * at_.v_slice + column * at_.v_column;
  }

  // One row block against what it sees of the packed chunk, round trip by round trip.
  void attend(Block& b) {
    for (Steps left = b.seen.some; left != 0;) {
      const Steps slice = left & steps_of_slice(chunk_ + first_step(left) * kBlock);
      const std::int64_t first = chunk_ + first_step(slice) * kBlock;
      const std::uint32_t* kept =
          shape_.dropout.on ? draw(b, first, last_step(slice) - first_step(slice) + 1) : nullptr;
      for (Steps rest = slice; rest != 0;) {
        const int step = first_step(rest);
        rest &= rest - 1;
        const std::int64_t key = chunk_ + step * kBlock;
        const bool part = !(b.seen.every >> step & 1);
        advance({.block = &b,
                 .slice = slice_of(key),
                 .key = key,
                 .begin = step_of(first),
                 .index = step_of(key),
                 .last = rest == 0,
                 .part = part,
                 .shown = !part     ? kAllShown.words
                          : b.words ? b.words + step * kBlock
                                    : edge(b, key),
                 .kept = kept ? kept + (key - first) : nullptr});
        if (rest) leave_out(step_of(key) + 1, step_of(chunk_ + first_step(rest) * kBlock));
      }
      left &= ~slice;
    }
  }

  // P = 0 of steps that no row of the block sees, between steps that some do.
  void leave_out(int begin, int end) {
    for (int plane = 0; plane < Format::kPlanes; ++plane)
      std::memset(scratch_ + at_.weights + plane * at_.p_plane + begin * kStepGroups * kGroupBytes, 0,
                  static_cast<std::size_t>(end - begin) * kStepGroups * kGroupBytes);
  }

  // The words of a step at the edge of the band. Two are alive: that of the pending step and the next.
  const std::uint32_t* edge(const Block& b, std::int64_t key) {
    edge_ring_ ^= 1;
    auto* words = reinterpret_cast<std::uint32_t*>(scratch_ + at_.edge) + edge_ring_ * kBlock;
    const auto seen = [&](int r) {
      return visible_bits(b.state.visible[r].begin - key, b.state.visible[r].end - key);
    };
    // Neither end decreases from row to row: where the first and the last are the same, all are.
    const Interval top = b.state.visible[0], bottom = b.state.visible[b.rows - 1];
    if (top.begin == bottom.begin && top.end == bottom.end) {
      std::fill_n(words, kBlock, seen(0));
    } else {
      for (int r = 0; r < kBlock; ++r) words[r] = seen(r);
    }
    return words;
  }

  // A step whose scores exist and whose softmax is still to be done.
  struct Pending {
    Block* block = nullptr;                // none
    std::int64_t slice = 0;                // of the chunk
    std::int64_t key = 0;                  // first key
    int begin = 0;                         // first step in the slice that the block sees
    int index = 0;                         // this step in the slice
    bool last = false;                     // P of the slice is complete after it
    bool part = false;                     // some pair is hidden
    const std::uint32_t* shown = nullptr;  // 32 words of what its rows see
    const std::uint32_t* kept = nullptr;   // its 32 words of dropout; null: none
  };

  // The words of dropout of a row block and some steps of a slice, a word per row and step. Two slices are
  // alive: the last step of one is pending while the next begins.
  const std::uint32_t* draw(const Block& b, std::int64_t key, int steps) {
    kept_ring_ ^= 1;
    auto* words = reinterpret_cast<std::uint32_t*>(scratch_ + at_.kept) + kept_ring_ * a_.blocking.round_trip;
    const DropoutPlane& d = shape_.dropout;
    const std::uint64_t e = d.base + static_cast<std::uint64_t>(b.head * d.head + b.row * d.row + key);
    KeptBits<Arch>(d).fill(e, d.row, b.rows, steps, words, kBlock);
    return words;
  }

  // S of the next step; between its multiplications, the softmax of the pending one.
  void advance(const Pending& next) {
    const std::size_t plane = plane_bytes<Format>(shape_.depth);
    const arch::Operands qk{next.block->query,           packed_key(next.key),   plane, plane,
                            units<Format>(shape_.depth), multiplied(*next.block)};
    float* s = scores(ring_ ^ 1);
    if (!pending_.block) {
      // Scores that no row sees are never looked at, so they may be missing.
      next.block->state.visible[next.block->rows - 1].end - next.key > kLanes
          ? Arch::template block<Format, false, 2>(qk, s, arch::NoHook{})
          : Arch::template block<Format, false, 1>(qk, s, arch::NoHook{});
    } else {
      const auto step = softmax_of_pending();
      with_hook(step, [&](auto hook) __attribute__((always_inline)) {
        Arch::template block<Format, false, 2>(qk, s, hook);
      });
      if (pending_.last) weigh_values();
    }
    pending_ = next;
    ring_ ^= 1;
  }

  void drain() {
    if (!pending_.block) return;
    const auto step = softmax_of_pending();
    with_hook(step, [rows = pending_.block->rows](auto hook) {
      for (int row = 0; row < rows; ++row) hook(row);
    });
    weigh_values();
    pending_.block = nullptr;
  }

  template <class Use>
  FA_INLINE void with_hook(const SoftmaxStep<Arch, Format>& step, const Use& use) const {
    if (scored_ || (pending_.part && shape_.half_scores)) return use(step.general());
    if (pending_.part) return use(step.part());
    if constexpr (std::is_same_v<T, f16>)
      if (shape_.half_scores) return use(step.halves());
    use(step.plain());
  }

  SoftmaxStep<Arch, Format> softmax_of_pending() const {
    Block& b = *pending_.block;
    const bool biased = shape_.bias.kind != BiasKind::none;
    float* bias = floats(at_.bias);
    if (biased)
      BiasTile<Arch, T>(shape_, {.head = b.head,
                                 .row = b.row,
                                 .key = pending_.key,
                                 .rows = b.rows,
                                 .keys = static_cast<int>(lesser(kBlock, shape_.keys - pending_.key))})
          .fill(bias);
    return {.state = &b.state,
            .s = scores(ring_),
            .p = scratch_ + at_.weights,
            .p_plane = at_.p_plane,
            .raises = &raises(),
            .key = pending_.key,
            .keys = shape_.keys,
            .mask_key = shape_.overlay.key,
            .scale = shape_.scale * kLog2E,
            .begin = pending_.begin,
            .index = pending_.index,
            .rows = b.rows,
            .half_scores = shape_.half_scores,
            .bias = biased ? bias : nullptr,
            .kept = pending_.kept,
            .shown = pending_.shown};
  }

  // O += P·V over the steps of the pending slice.
  void weigh_values() {
    Block& b = *pending_.block;
    const std::size_t skip = pending_.begin * kStepGroups * kGroupBytes;
    const Interval keys = pending_keys();
    if (raises().rows)
      settle<Arch, Format>(raises(), b.state.m, scratch_ + at_.weights, at_.p_plane, pending_.begin, b.output,
                           b.fresh ? 0 : at_.columns);
    for (int column = 0; column < at_.columns; ++column) {
      const arch::Operands pv{scratch_ + at_.weights + skip,
                              packed_value(pending_.slice, column) + skip,
                              at_.p_plane,
                              at_.p_plane,
                              units<Format>(keys.size()),
                              multiplied(b)};
      float* o = b.output + column * arch::kBlockFloats;
      const bool whole = shape_.value_depth - column * kBlock > kLanes;
      if (b.fresh) {
        whole ? Arch::template block<Format, false, 2>(pv, o, arch::NoHook{})
              : Arch::template block<Format, false, 1>(pv, o, arch::NoHook{});
      } else {
        whole ? Arch::template block<Format, true, 2>(pv, o, arch::NoHook{})
              : Arch::template block<Format, true, 1>(pv, o, arch::NoHook{});
      }
    }
    b.fresh = false;
    if (nonfinite_) weigh_nonfinite();
  }

  Raises& raises() const { return *reinterpret_cast<Raises*>(scratch_ + at_.raises); }

  // From the first step of the pending slice to the last key that a row of the block sees: keys behind it
  // may have no page.
  Interval pending_keys() const {
    const Block& b = *pending_.block;
    return {pending_.key - (pending_.index - pending_.begin) * kBlock,
            lesser(pending_.key + kBlock, b.state.visible[b.rows - 1].end)};
  }

  // The infinities and NaN that packing left out of V, to the rows that see them and to no other.
  [[gnu::noinline]] void weigh_nonfinite() {
    const Block& b = *pending_.block;
    const Interval keys = pending_keys();
    for (std::int64_t key = keys.begin; key < keys.end; ++key) {
      const T* value = values_.step(key, 1, key + 1).rows()[0];
      for (std::int64_t c = 0; c < shape_.value_depth; ++c) {
        const float v = to_float(value[c]);
        if (v - v == 0.0f) continue;
        for (int r = 0; r < b.rows; ++r) {
          if (b.state.sees(r, key, shape_.overlay.key))
            b.output[o_offset(r, c)] += weight(r, key - keys.begin) * v;
        }
      }
    }
  }
  // Of key `place` of the pending slice.
  float weight(int r, std::int64_t place) const {
    const std::int64_t element = place + pending_.begin * kBlock;
    const std::byte* line =
        scratch_ + at_.weights + element / kGroupElements<Format> * kGroupBytes + r * kLine;
    return a_element<Format>(line, at_.p_plane, element % kGroupElements<Format>);
  }

  void finish(const Block& b) {
    each_row(b, [&](int r, std::int64_t head, std::int64_t row) {
      finish_row<Arch, T>(a_, t_, head, row, b.state, r, b.output + arch::c_offset(r, 0));
    });
  }

  const ForwardArgs& a_;
  const Shape& shape_;
  const ForwardTask& t_;
  const ForwardLayout<Arch, Format, T> at_;
  std::byte* const scratch_;
  const KeyRows<Arch, T> keys_, values_;
  const bool value_in_key_;
  const bool scored_;       // there is a bias or dropout
  const bool together_;     // the rows of several heads in one block
  std::int64_t chunk_ = 0;  // first key of the packed chunk
  Pending pending_;
  int ring_ = 0, kept_ring_ = 0, edge_ring_ = 0;
  bool nonfinite_ = false;  // the packed chunk of V had such elements
};

template <class Arch, class Format, class T>
inline constexpr Forward kForward{
    .scratch_bytes =
        [](const Shape& shape, const Blocking& blocking) {
          return ForwardLayout<Arch, Format, T>(shape, blocking).bytes;
        },
    .run =
        [](const ForwardArgs& args, const ForwardTask& task, std::byte* scratch) {
          Arch::begin();
          ForwardRun<Arch, Format, T>(args, task, scratch).run();
          Arch::end();
        },
    .merge = merge_partials<Arch, T>,
    .rate = block_rate<Arch, Format>,
    .show = show_rows<Arch>,
};

}  // namespace fusion_attention::kernels
