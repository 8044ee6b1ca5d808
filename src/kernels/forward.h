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
// Chunks and round trips are anchored at key 0 of the sequence, whatever a task sees of them: they are the
// order in which O is summed, which must not depend on how rows are divided among threads.
//
// The softmax of the last step of a block is woven into the first product of the next block: the pipeline
// drains once per chunk only.
#pragma once

#include <new>
#include <type_traits>

#include "kernels/keys.h"
#include "kernels/partial.h"
#include "kernels/rate.h"
#include "kernels/softmax.h"

namespace fusion_attention::kernels {

inline constexpr int kShownSteps = 3;  // whose words of visible pairs are alive at once

// Where everything of a task lies in its scratch.
template <class Arch, class Format, class T>
struct ForwardLayout {
  std::int64_t blocks;                  // row blocks of all heads
  int columns;                          // 32-wide column blocks of O
  int slices;                           // round trips in a chunk
  std::size_t q, k, v_column, v_slice;  // bytes of one packed Q block, K step, V column block, V slice
  std::size_t p_plane;
  std::size_t states, queries, keys, values, outputs, scores, weights, bias, kept, shown, step;  // offsets
  std::size_t bytes;

  FA_INLINE ForwardLayout(const Shape& shape, const Blocking& blocking) {
    blocks = shape.group * ceil_div(blocking.rows, kBlock);
    columns = static_cast<int>(ceil_div(shape.value_depth, kBlock));
    slices = static_cast<int>(ceil_div(blocking.keys, blocking.round_trip));
    q = k = operand_bytes<Format>(shape.depth);
    p_plane = plane_bytes<Format>(blocking.round_trip);
    v_column = operand_bytes<Format>(blocking.round_trip);
    v_slice = columns * v_column;
    std::size_t at = 0;
    const auto take = [&](std::size_t size) {
      const std::size_t here = at;
      at += (size + kLine - 1) / kLine * kLine;
      return here;
    };
    states = take(blocks * sizeof(SoftmaxState<Arch>));
    queries = take(blocks * q);
    keys = take(blocking.keys / kBlock * k);
    values = take(slices * v_slice);
    outputs = take(blocks * columns * arch::kBlockFloats * sizeof(float));
    scores = take(2 * arch::kBlockFloats * sizeof(float));
    weights = take(Format::kPlanes * p_plane);
    bias = take(arch::kBlockFloats * sizeof(float));
    kept = take(2 * blocking.round_trip * sizeof(std::uint32_t));
    shown = take(kShownSteps * kBlock * sizeof(std::uint32_t));
    step = take(KeyRows<Arch, T>::step_bytes(greater(shape.depth, shape.value_depth)));
    bytes = at;
  }
};

template <class Arch, class Format, class T>
class ForwardRun {
  using State = SoftmaxState<Arch>;
  static constexpr int kStepGroups = SoftmaxStep<Arch, Format>::kStepGroups;

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
        together_(task_rows() < kBlock && shape_.group > 1 && !shape_.dropout.on &&
                  shape_.bias.kind == BiasKind::none) {}

  void run() {
    for (std::int64_t b = 0; b < blocks(); ++b) start(b);
    const Interval reach = reached_keys(shape_, t_);
    for (chunk_ = reach.begin; chunk_ < reach.end;) {
      const std::int64_t end = lesser(reach.end, round_down(chunk_, a_.blocking.keys) + a_.blocking.keys);
      pack(end);
      for (std::int64_t b = 0; b < blocks(); ++b) attend(b, end);
      drain();
      chunk_ = end;
    }
    for (std::int64_t b = 0; b < blocks(); ++b) finish(b);
  }

 private:
  // Row blocks are numbered head by head. Few rows would leave them empty: then the rows of all heads are
  // numbered together, the heads of a row side by side, so that what is seen still grows along a block.
  std::int64_t task_rows() const { return t_.row_end - t_.row_begin; }
  std::int64_t row_blocks() const { return ceil_div(task_rows(), kBlock); }
  std::int64_t blocks() const {
    return together_ ? ceil_div(shape_.group * task_rows(), kBlock) : shape_.group * row_blocks();
  }
  std::int64_t head_of(std::int64_t b, int r = 0) const {
    return t_.kv_head * shape_.group + (together_ ? (b * kBlock + r) % shape_.group : b / row_blocks());
  }
  std::int64_t row_of(std::int64_t b, int r = 0) const {
    return t_.row_begin + (together_ ? (b * kBlock + r) / shape_.group : b % row_blocks() * kBlock + r);
  }
  int rows_of(std::int64_t b) const {
    return static_cast<int>(
        lesser(kBlock, together_ ? shape_.group * task_rows() - b * kBlock : t_.row_end - row_of(b)));
  }

  State& state(std::int64_t b) const { return reinterpret_cast<State*>(scratch_ + at_.states)[b]; }
  std::byte* query(std::int64_t b) const { return scratch_ + at_.queries + b * at_.q; }
  float* output(std::int64_t b) const { return floats(at_.outputs) + b * at_.columns * arch::kBlockFloats; }
  float* scores(int ring) const { return floats(at_.scores) + ring * arch::kBlockFloats; }
  float* floats(std::size_t offset) const { return reinterpret_cast<float*>(scratch_ + offset); }

  // The rows of Q of one block.
  struct QueryRows {
    const ForwardRun& run;
    std::int64_t block;

    const T* operator[](int r) const {
      const Operand& q = run.a_.query;
      return reinterpret_cast<const T*>(q.data + run.head_of(block, r) * q.head +
                                        run.row_of(block, r) * q.row);
    }
  };

  void start(std::int64_t b) {
    State& s = *new (&state(b)) State;
    for (int r = 0; r < kBlock; ++r) {
      const bool real = r < rows_of(b);
      s.start(r, real ? visible_keys(shape_, t_, row_of(b, r)) : Interval{},
              real ? mask_row(shape_.overlay, head_of(b, r), row_of(b, r)) : nullptr);
    }
    pack_a<Arch, Format>(QueryRows{*this, b}, rows_of(b), shape_.depth, query(b));
    float* o = output(b);
    for (std::size_t i = 0; i < at_.columns * arch::kBlockFloats; i += kLanes)
      Arch::store(o + i, Arch::zero());
  }

  // K and V of the keys [chunk_, end).
  void pack(std::int64_t end) {
    nonfinite_ = false;
    for (std::int64_t key = chunk_; key < end; key += kBlock) {
      const int n = static_cast<int>(lesser(kBlock, end - key));
      const Rows<T> keys = keys_.step(key, n, end).rows;
      pack_b_transposed<Arch, Format>(keys, n, shape_.depth, packed_key(key));
      const Rows<T> values = value_in_key_ ? keys : values_.step(key, n, end).rows;
      for (int column = 0; column < at_.columns; ++column)
        nonfinite_ |= pack_depth<Arch, Format, false>(
            values, n, column * kBlock, lesser(kBlock, shape_.value_depth - column * kBlock),
            a_.blocking.round_trip,
            packed_value(slice_of(key), column) + step_of(key) * kStepGroups * kGroupBytes);
    }
  }
  // The round trip of the chunk that a key belongs to, and its step in it.
  std::int64_t slice_of(std::int64_t key) const {
    return key / a_.blocking.round_trip - chunk_ / a_.blocking.round_trip;
  }
  int step_of(std::int64_t key) const { return static_cast<int>(key % a_.blocking.round_trip / kBlock); }
  std::byte* packed_key(std::int64_t key) const {
    return scratch_ + at_.keys + (key - chunk_) / kBlock * at_.k;
  }
  std::byte* packed_value(std::int64_t slice, int column) const {
    return scratch_ + at_.values + slice * at_.v_slice + column * at_.v_column;
  }

  // One row block against the packed keys [chunk_, end).
  void attend(std::int64_t b, std::int64_t end) {
    const State& s = state(b);
    const Interval &top = s.visible[0], &bottom = s.visible[rows_of(b) - 1];
    const bool everywhere = shape_.dropout.on || shape_.bias.kind != BiasKind::none;
    const std::int64_t last = lesser(bottom.end, end);
    for (std::int64_t key = greater(chunk_, round_down(top.begin, kBlock)); key < last;) {
      const std::int64_t end_of_slice =
          lesser(last, round_down(key, a_.blocking.round_trip) + a_.blocking.round_trip);
      const std::uint32_t* kept = nullptr;
      std::int64_t first = key;  // of the slice
      // The next step that a dense mask does not hide from every row of the block.
      const auto seen_from = [&](std::int64_t at, Shown& shown) {
        for (; at < end_of_slice; at += kBlock)
          if ((shown = look(b, at)).any) break;
        return at;
      };
      Shown here, next;
      key = first = seen_from(key, here);
      for (std::int64_t next_key; key < end_of_slice; key = next_key, here = next) {
        next_key = seen_from(key + kBlock, next);
        if (shape_.dropout.on && !kept) kept = draw(b, first, end_of_slice);
        advance({.block = b,
                 .slice = slice_of(key),
                 .key = key,
                 .begin = step_of(first),
                 .index = step_of(key),
                 .general = everywhere || !here.all || key < bottom.begin || key + kBlock > top.end,
                 .last = next_key >= end_of_slice,
                 .kept = kept ? kept + (key - first) : nullptr,
                 .shown = here.words});
        if (next_key < end_of_slice) leave_out(step_of(key) + 1, step_of(next_key));
      }
    }
  }

  // P = 0 of steps that no row of the block sees, between steps that some do.
  void leave_out(int begin, int end) {
    for (int plane = 0; plane < Format::kPlanes; ++plane)
      std::memset(scratch_ + at_.weights + plane * at_.p_plane + begin * kStepGroups * kGroupBytes, 0,
                  static_cast<std::size_t>(end - begin) * kStepGroups * kGroupBytes);
  }

  // What the rows of a block see of a step through a dense mask, if there is one.
  struct Shown {
    bool any = false, all = false;
    const std::uint32_t* words = nullptr;  // a word per row; null: no mask
  };
  Shown look(std::int64_t b, std::int64_t key) {
    const State& s = state(b);
    if (!s.hidden[0]) return {.any = true, .all = true};
    // Alive are the words of the pending step, of the one to come and of the one behind it; a step that
    // nobody sees leaves its place to the next.
    const int place = (shown_ring_ + 1) % kShownSteps;
    auto* words = reinterpret_cast<std::uint32_t*>(scratch_ + at_.shown) + place * kBlock;
    std::uint32_t some = 0, every = ~0u;
    for (int r = 0; r < kBlock; ++r) {
      words[r] = r < rows_of(b) ? s.shown(r, key, shape_.keys, shape_.overlay.key) : 0;
      some |= words[r];
      if (r < rows_of(b)) every &= words[r];
    }
    if (some) shown_ring_ = place;
    return {.any = some != 0, .all = every == ~0u, .words = words};
  }

  // A step whose scores exist and whose softmax is still to be done.
  struct Pending {
    std::int64_t block = -1;               // none
    std::int64_t slice = 0;                // of the chunk
    std::int64_t key = 0;                  // first key
    int begin = 0;                         // first step in the slice that the block sees
    int index = 0;                         // this step in the slice
    bool general = false;                  // some pair is hidden, or there is a bias or dropout
    bool last = false;                     // P of the slice is complete after it
    const std::uint32_t* kept = nullptr;   // its 32 words of dropout; null: none
    const std::uint32_t* shown = nullptr;  // of what its rows see; null: no dense mask
  };

  // The words of dropout of a row block and the steps of a slice, a word per row and step. Two slices are
  // alive: the last step of one is pending while the next begins.
  const std::uint32_t* draw(std::int64_t b, std::int64_t key, std::int64_t end) {
    kept_ring_ ^= 1;
    auto* words = reinterpret_cast<std::uint32_t*>(scratch_ + at_.kept) + kept_ring_ * a_.blocking.round_trip;
    const DropoutPlane& d = shape_.dropout;
    const std::uint64_t e =
        d.base + static_cast<std::uint64_t>(head_of(b) * d.head + row_of(b) * d.row + key);
    KeptBits<Arch>(d).fill(e, d.row, rows_of(b), static_cast<int>(ceil_div(end - key, kBlock)), words,
                           kBlock);
    return words;
  }

  // S of the next step; between its multiplications, the softmax of the pending one.
  void advance(const Pending& next) {
    const std::size_t plane = plane_bytes<Format>(shape_.depth);
    const arch::Operands qk{query(next.block),
                            packed_key(next.key),
                            plane,
                            plane,
                            units<Format>(shape_.depth),
                            static_cast<int>(round_up(rows_of(next.block), 8))};
    float* s = scores(ring_ ^ 1);
    if (pending_.block < 0) {
      Arch::template block<Format, false, 2>(qk, s, arch::NoHook{});
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
    if (pending_.block < 0) return;
    const auto step = softmax_of_pending();
    with_hook(step, [](auto hook) {
      for (int row = 0; row < kBlock; ++row) hook(row);
    });
    weigh_values();
    pending_.block = -1;
  }

  template <class Use>
  FA_INLINE void with_hook(const SoftmaxStep<Arch, Format>& step, const Use& use) const {
    if (pending_.general) return use(step.general());
    if constexpr (std::is_same_v<T, f16>)
      if (shape_.half_scores) return use(step.halves());
    use(step.plain());
  }

  SoftmaxStep<Arch, Format> softmax_of_pending() const {
    const bool biased = shape_.bias.kind != BiasKind::none;
    float* bias = floats(at_.bias);
    if (biased)
      BiasTile<Arch, T>(shape_, {.head = head_of(pending_.block),
                                 .row = row_of(pending_.block),
                                 .key = pending_.key,
                                 .rows = rows_of(pending_.block),
                                 .keys = static_cast<int>(lesser(kBlock, shape_.keys - pending_.key))})
          .fill(bias);
    return {.state = &state(pending_.block),
            .s = scores(ring_),
            .p = scratch_ + at_.weights,
            .p_plane = at_.p_plane,
            .o = output(pending_.block),
            .key = pending_.key,
            .keys = shape_.keys,
            .mask_key = shape_.overlay.key,
            .scale = shape_.scale * kLog2E,
            .begin = pending_.begin,
            .index = pending_.index,
            .columns = at_.columns,
            .half_scores = shape_.half_scores,
            .bias = biased ? bias : nullptr,
            .kept = pending_.kept,
            .shown = pending_.shown};
  }

  // O += P·V over the steps of the pending slice.
  void weigh_values() {
    const std::size_t skip = pending_.begin * kStepGroups * kGroupBytes;
    const int steps = pending_.index - pending_.begin + 1;
    for (int column = 0; column < at_.columns; ++column) {
      const arch::Operands pv{scratch_ + at_.weights + skip,
                              packed_value(pending_.slice, column) + skip,
                              at_.p_plane,
                              at_.p_plane,
                              steps * kStepGroups * arch::kGroupUnits,
                              static_cast<int>(round_up(rows_of(pending_.block), 8))};
      float* o = output(pending_.block) + column * arch::kBlockFloats;
      if (shape_.value_depth - column * kBlock > kLanes) {
        Arch::template block<Format, true, 2>(pv, o, arch::NoHook{});
      } else {
        Arch::template block<Format, true, 1>(pv, o, arch::NoHook{});
      }
    }
    if (nonfinite_) weigh_nonfinite();
  }

  // The infinities and NaN that packing left out of V, to the rows that see them and to no other.
  [[gnu::noinline]] void weigh_nonfinite() {
    const State& s = state(pending_.block);
    const std::int64_t first = pending_.key - (pending_.index - pending_.begin) * kBlock;
    float* o = output(pending_.block);
    for (std::int64_t key = first; key < lesser(pending_.key + kBlock, t_.key_end); ++key) {
      const T* value = values_.step(key, 1, key + 1).rows[0];
      for (std::int64_t c = 0; c < shape_.value_depth; ++c) {
        const float v = to_float(value[c]);
        if (v - v == 0.0f) continue;
        for (int r = 0; r < rows_of(pending_.block); ++r) {
          if (s.sees(r, key, shape_.overlay.key)) o[o_offset(r, c)] += weight(r, key, first) * v;
        }
      }
    }
  }
  float weight(int r, std::int64_t key, std::int64_t first) const {
    const std::int64_t element = key - first + pending_.begin * kBlock;
    const std::byte* line =
        scratch_ + at_.weights + element / kGroupElements<Format> * kGroupBytes + r * kLine;
    return a_element<Format>(line, at_.p_plane, element % kGroupElements<Format>);
  }

  void finish(std::int64_t b) {
    for (int r = 0; r < rows_of(b); ++r)
      finish_row<Arch, T>(a_, t_, head_of(b, r), row_of(b, r), state(b), r, output(b) + arch::c_offset(r, 0));
  }

  const ForwardArgs& a_;
  const Shape& shape_;
  const ForwardTask& t_;
  const ForwardLayout<Arch, Format, T> at_;
  std::byte* const scratch_;
  const KeyRows<Arch, T> keys_, values_;
  const bool value_in_key_;
  const bool together_;     // the rows of several heads in one block
  std::int64_t chunk_ = 0;  // first key of the packed chunk
  Pending pending_;
  int ring_ = 0, kept_ring_ = 0, shown_ring_ = 0;
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
};

}  // namespace fusion_attention::kernels
