// What to compute, never how: the one description that every interface produces, every log, test
// and benchmark prints as a line, and every plan starts from.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "fusion_attention/cache.h"
#include "fusion_attention/integer.h"
#include "fusion_attention/mask.h"
#include "fusion_attention/scores.h"
#include "fusion_attention/tensor.h"

namespace fusion_attention {

enum class Pass : std::uint8_t { forward, backward };

// One attention problem inside the tensors. Dense layouts have one per batch entry; a packed
// (TND) tensor has batch 0 and many. Rows and keys are counted along the row axis of the views.
struct Sequence {
  std::int64_t batch = 0;           // index on the batch axis of the views
  std::int64_t row = 0, rows = 0;   // first query row on the row axis, count
  std::int64_t key = 0, keys = 0;   // first key on the row axis of key and value, count (a prefix included)
  std::int64_t prefix = 0;          // keys that come first, from the prefix of Problem::cache
  std::int64_t page = 0;            // first entry of its table, where Problem::cache has pages
  std::int64_t row0 = 0, key0 = 0;  // global position of its first row and key, for shards
  Band band;
  Plane bias{};                 // where Problem::bias has its numbers
  std::int64_t bias_shift = 0;  // added to j − i, local positions, by slopes
  Plane dropout{};              // the index e of Problem::dropout
};

// How statistics are laid out: entry (sequence s, head n, row i) of N heads, with `first` the sum of
// the rows of the sequences before s, sits at
//   head_major  first*N + n*rows(s) + i      [B, N, S] of dense layouts; per sequence for TND
//   row_major   (first + i)*N + n            the natural [T, N]
enum class StatisticsOrder : std::uint8_t { head_major, row_major };

// The softmax statistics of a row, natural logarithm domain: the true maximum of its visible scores (scaled,
// with bias and sink) and the sum of exp(score - max); (-FLT_MAX, 1) for a row that sees nothing.
struct Statistics {
  float* max = nullptr;  // [entries, copies], may be null in the forward
  float* sum = nullptr;  // [entries, copies], may be null in the forward
  StatisticsOrder order = StatisticsOrder::head_major;
  std::int64_t copies = 8;  // equal copies in the last axis; the backward reads the first
};

// Shapes: query [B, N, Tq, D], key [B, Nkv, Tk, D], value [B, Nkv, Tk, Dv], output [B, N, Tq, Dv];
// N % Nkv == 0, query head n reads key/value head n / (N / Nkv). All of one dtype, except: the output of int8
// operands is fp16, or int8 as any output with output_scaling; key and value may be a Cache.
// Rows and keys outside every sequence get zero output, zero gradients and statistics (-FLT_MAX, 1).
struct Problem {
  Pass pass = Pass::forward;
  TensorView query, key, value;
  TensorView output;      // written by the forward, read by the backward (attention_in)
  Statistics statistics;  // written by the forward, read (never recomputed) by the backward

  TensorView output_gradient;                               // backward: read
  TensorView query_gradient, key_gradient, value_gradient;  // backward: written

  double scale = 1.0;  // multiplies Q·Kᵀ in fp32; any finite value
  std::vector<Sequence> sequences;
  Overlay overlay;
  Bias bias;
  Dropout dropout;
  Sink sink;
  Cache cache;
  bool half_scores = false;  // forward, fp16: Q·Kᵀ is rounded to fp16, saturating, before the scale
  Integer integer;           // of int8 operands
  OutputScaling output_scaling;

  std::int64_t group() const { return key.heads() == 0 ? 0 : query.heads() / key.heads(); }
};

// The smallest view set for given sizes: contiguous [B, N, S, D] views with null data and one
// sequence per batch entry under `band`.
Problem dense_problem(Pass pass, Dtype dtype, std::int64_t batches, std::int64_t heads, std::int64_t kv_heads,
                      std::int64_t rows, std::int64_t keys, std::int64_t depth, std::int64_t value_depth,
                      double scale, const Band& band);

// One line and back, for example
//   fwd bf16 b2 h32/8 q4096 k4096 d128/128 scale=0.0883883 band(-inf,0)
//   bwd fp32 b1 h4/4 q7 k9 d40/40 scale=1 seqs(0:0:3:0:4:0:0:-inf:1,0:3:4:4:5:0:0:-inf:1) overlay(bnqk)
// band(lo,hi[,prefix[,block[,reach]]]);
// seqs(batch:row:rows:key:keys:row0:key0:lo:hi[:prefix[:block[:reach]]],…) where
// sequences are not one per batch entry, all alike; overlay(…) names the axes that a dense mask has.
//   bias(dense,bnqk,bf16,before,last=1024)  bias(distance,n,shift=3)   its axes; a shift per sequence: 3:0:5
//   dropout(keep=0.9,seed=5,offset=12)      dropout(keep=0.9,bits)     sink
//   halves (half_scores)                    scaled(1)  scaled(512,offset)  output_scaling: numbers of each
// parse(text(p)) describes the same work with contiguous views and null data; bias and dropout lie on natural
// planes (one array over the tensors, or one block per packed sequence).
std::string text(const Problem& problem);
Problem parse(std::string_view line);  // throws Error on a malformed line

// Throws Error, naming the first argument that is wrong. Reads no tensor memory. After it, kernels
// have no failing path.
void validate(const Problem& problem);

}  // namespace fusion_attention
