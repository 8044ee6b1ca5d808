// What joins the scores besides the mask: a bias (position encoding), dropout of the probabilities, a sink.
//
//   Y = scale·Q·Kᵀ + bias          or scale·(Q·Kᵀ + bias)
//   P = exp(Y − max) over the visible keys, and l = Σ P + exp(sink − max), before dropout
//   O = (P ∘ kept / keep_prob)·V / l
//
// Nothing here is ever materialised by the library: kernels read or generate it tile by tile.
#pragma once

#include <cstdint>

#include "fusion_attention/tensor.h"

namespace fusion_attention {

// Where one sequence lies in an array of one number per (head, row, key), or fewer: that of head n, local row
// i and local key j has index base + n*head + i*row + j. Stride 0 broadcasts.
struct Plane {
  std::int64_t base = 0, head = 0, row = 0;

  friend bool operator==(const Plane&, const Plane&) = default;
};

enum class BiasKind : std::uint8_t {
  none,
  dense,     // bias(n, i, j) = data[plane(n, i, j)]; only visible pairs are read
  distance,  // −slope(n)·|j − i + shift|, slope(n) = data[plane.base + n*plane.head], Sequence::bias_shift
  root_distance,  // −slope(n)·sqrt|j − i + shift|
};

// Each Sequence has the Plane of its own bias.
struct Bias {
  BiasKind kind = BiasKind::none;
  const void* data = nullptr;
  Dtype dtype = Dtype::float32;  // of data: float32 for slopes; the query's or float32 for a dense bias
  std::int64_t elements = 0;     // of data: every index that can be read lies below
  bool before_scale = false;     // scale·(Q·Kᵀ + bias); dense only
  // 0, or H: the data of a head are only the last H rows of a bias that depends on j − i alone, under a band
  // that shows no key after the row. Local row i < rows − H is then read at row i mod H, shifted to the same
  // distance.
  std::int64_t last_rows = 0;
  // Backward: null, or the gradient by the index of data, summed over what broadcasts; every one of
  // `elements` numbers is written.
  float* gradient = nullptr;

  explicit operator bool() const { return kind != BiasKind::none; }
};

// Inverted dropout of the probabilities, after l is summed. Every (head, row, key) has an index e, given by
// the Plane of its Sequence; by default e is linear in the whole problem, [B, N, Sq, Skv] or the sequences'
// own [N, rows, keys] one behind the other, and a shard passes the Plane of its origin.
//
// Kept is what the bit e % 8 of byte e / 8 of `bits` says or, without bits, what Philox4x32-10 says: key
// seed, counter (low 64 bits e / 4, high 64 bits offset), word e % 4 of its output, kept if its low 23 bits,
// as a fraction of 2²³, are at least float(1) − float(keep_prob). The same in forward and backward, whatever
// the tiling, thread count or arch.
struct Dropout {
  double keep_prob = 1.0;  // (0, 1]
  std::uint64_t seed = 0, offset = 0;
  const std::uint8_t* bits = nullptr;
  std::int64_t bytes = 0;  // of bits

  explicit operator bool() const { return keep_prob < 1.0 || bits != nullptr; }
};

// One more logit per query head, which takes part in max and l and has no value. In the natural domain, after
// the scale.
struct Sink {
  const float* data = nullptr;  // [N]
  float* gradient = nullptr;    // [N], backward; may be null

  explicit operator bool() const { return data != nullptr; }
};

}  // namespace fusion_attention
