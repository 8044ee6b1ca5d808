// The contract between plan/ and the kernels: plain pointers, strides and counts. A kernel never sees a
// Problem, so each one is tested without the library.
#pragma once

#include <cstddef>
#include <cstdint>

#include "fusion_attention/mask.h"
#include "fusion_attention/problem.h"
#include "fusion_attention/scores.h"
#include "fusion_attention/tensor.h"

namespace fusion_attention::kernels {

inline constexpr int kMostRoundTrip = 256;  // of a forward
// Of its keys, and of the queries and keys of a backward: what is seen of 32 of them is a bit (visible.h).
inline constexpr int kMostChunk = 64 * 32;

// The numbers of the machine table (plan/machine.h) that a kernel is run with.
struct Blocking {
  // Query rows per super-block and head, a multiple of 32: O and Q of it stay in L2. Of a decode the most
  // query rows of a kv head, any number.
  int rows = 256;
  int keys = 1024;       // keys per packed chunk, a multiple of round_trip: K and V of it stay in L2
  int round_trip = 256;  // keys between two updates of O, a multiple of 32: P of it stays in L1
  int splits = 1;        // the most splits over keys (forward, decode) or over queries (backward)
};

// One operand of one sequence: row i of head h begins at data + h*head + i*row. Bytes; channels are
// contiguous (plan/ copies operands whose channel stride is not 1).
struct Operand {
  std::byte* data = nullptr;
  std::int64_t head = 0;
  std::int64_t row = 0;
};

// x = (stored + offset)·scale: one of the two, by page, head, row and channel; bytes, 0 where it broadcasts.
struct Scales {
  const std::byte* data = nullptr;    // of the first row of the sequence, or of page 0; null: none
  const std::byte* prefix = nullptr;  // of every row of the prefix
  Dtype dtype = Dtype::float32;
  std::int64_t page = 0, head = 0, row = 0, channel = 0;
  bool by_position = false;  // rows are the keys of the sequence behind its prefix, whatever page they are in
};

// Some channels of every key (or value) of a sequence, as they are stored.
struct KeyChannels {
  Operand rows{};         // of the sequence, behind its prefix; with pages, of page 0
  Operand prefix{};       // of the prefix
  std::int64_t page = 0;  // bytes from page to page
  std::int64_t channels = 0;
  Dtype dtype = Dtype::float32;  // the query's, int8 or int4
  Scales scale{}, offset{};      // of int8 and int4
};

// The keys (or values) of one sequence: fusion_attention/cache.h says which is where.
struct KeySource {
  KeyChannels leading;
  KeyChannels rope;  // behind them; no channels: none
  std::int64_t prefix = 0;
  const std::int32_t* table = nullptr;  // the sequence's first entry; null: no pages
  std::int64_t page_rows = 1;
};

// Statistics of one sequence: entry (n, i) at (base + n*head + i*row) * copies floats.
struct StatisticsPlane {
  float* max = nullptr;  // null: not wanted
  float* sum = nullptr;
  std::int64_t head = 0;
  std::int64_t row = 0;
  std::int64_t copies = 0;
};

// The dense mask of one sequence: byte (n, i, j) at data + n*head + i*row + j*key.
struct OverlayPlane {
  const std::uint8_t* data = nullptr;  // null: none
  std::int64_t head = 0, row = 0, key = 0;
  // What band and mask show to every head alike, as Show says, block of 32 rows behind block; null:
  // not made.
  const std::uint32_t* words = nullptr;
};

// The bias of one sequence: number (n, i, j) at data + n*head + i*row + j, in elements.
struct BiasPlane {
  BiasKind kind = BiasKind::none;
  const void* data = nullptr;
  bool of_query_dtype = false;  // otherwise float
  bool before_scale = false;
  std::int64_t head = 0, row = 0;
  std::int64_t last_rows = 0;
  std::int64_t shift = 0;
  float* gradient = nullptr;  // null: not wanted
};

// The dropout of one sequence: (n, i, j) has index base + n*head + i*row + j.
struct DropoutPlane {
  bool on = false;
  std::uint64_t seed = 0, offset = 0;
  std::uint32_t threshold = 0;         // of the low 23 bits of a word
  const std::uint8_t* bits = nullptr;  // null: Philox
  std::uint64_t bytes = 0;             // of bits
  std::uint64_t base = 0;
  std::int64_t head = 0, row = 0;
  float inverse_keep = 1;
};

// What all passes share: the shape and the mask of one sequence. Query head n of kv head k is
// k*group + (0 … group-1).
struct Shape {
  std::int64_t rows = 0, keys = 0;
  std::int64_t row0 = 0, key0 = 0;  // global positions, for the band
  std::int64_t depth = 0;           // D
  std::int64_t value_depth = 0;     // Dv
  std::int64_t group = 1;           // query heads per kv head
  float scale = 1;
  Band band;
  OverlayPlane overlay;
  BiasPlane bias;
  DropoutPlane dropout;
  const float* sink = nullptr;  // one per query head; null: none
  bool half_scores = false;     // Q·Kᵀ is rounded to fp16, saturating, before the scale
};

// What makes an int8 output of fp16 results: Q of integer.h with numbers at n*head + channel*step.
struct OutputScale {
  const float* scale = nullptr;  // null: the output is not int8
  const float* offset = nullptr;
  std::int64_t head = 0, step = 0;
};

struct ForwardArgs {
  Shape shape;
  Operand query, output;
  KeySource key, value;
  StatisticsPlane statistics;
  OutputScale output_scale;
  Integer integer;  // of the integer rows
  Blocking blocking;
};

// Rows [row_begin, row_end) of every query head of one kv head, against keys [key_begin, key_end).
struct ForwardTask {
  std::int64_t kv_head = 0;
  std::int64_t row_begin = 0, row_end = 0;
  std::int64_t key_begin = 0, key_end = 0;
  // null: the output and the statistics are finished and stored. Otherwise this task is one split over
  // keys and leaves [group][row_end - row_begin] records of value_depth + 2 floats: O relative to
  // its own sum, max, sum (natural logarithm domain; (-FLT_MAX, 0) and O = 0 for a row that sees nothing).
  float* partial = nullptr;
};

// Merges the splits of one row range in index order, finishes and stores.
struct MergeTask {
  std::int64_t kv_head = 0;
  std::int64_t row_begin = 0, row_end = 0;
  const float* partials = nullptr;  // splits × group × rows × (value_depth + 2)
  int splits = 0;
};

struct BackwardArgs {
  Shape shape;
  Operand query, key, value, output, output_gradient;
  Operand query_gradient, key_gradient, value_gradient;
  StatisticsPlane statistics;  // read
  Blocking blocking;
};

// One of the splits of a sequence over rows, with the keys that any of its rows sees.
struct BackwardSplit {
  std::int64_t row_end = 0;                 // its rows begin where those of the split before end
  std::int64_t key_begin = 0, key_end = 0;  // key_begin is a multiple of 32
  // Its share of the gradients, (key_end - key_begin) × (depth + value_depth) floats, dK then dV: where it
  // begins, in floats from that of the first split.
  std::int64_t share = 0;
};

// Where several splits leave their shares of the key and value gradients: fp32 [keys of it, D], then
// [keys of it, Dv].
struct GradientShare {
  float* data = nullptr;
  std::int64_t key_begin = 0, key_end = 0;  // those it has numbers for, at least those of the split
  bool add = false;                         // to what earlier splits left there
  bool last = false;                        // of them: the sums are stored as gradients
};

// All query heads of one kv head, rows [row_begin, row_end): their query gradients are stored; their
// share of the key and value gradients is stored, or left in `share` when there are several splits.
struct BackwardTask {
  std::int64_t kv_head = 0;
  std::int64_t row_begin = 0, row_end = 0;
  std::int64_t key_begin = 0, key_end = 0;  // those of the split; all where it is the only one
  GradientShare share{};                    // without data: the only one
};

// Adds up the shares of all splits in index order, from zero, and stores the gradients of some keys.
struct BackwardMergeTask {
  std::int64_t kv_head = 0;
  std::int64_t key_begin = 0, key_end = 0;
  const float* partials = nullptr;  // the share of split 0
  const BackwardSplit* splits = nullptr;
  int count = 0;
};

// What the 32 rows from `row` on see of the keys of a sequence with a dense mask that has no heads: bit j of
// words[32·i + r] is key 32·i + j of row `row` + r. Words of steps that the band hides from all of them are
// not written.
using Show = void (*)(const Shape&, std::int64_t row, std::uint32_t* words);

// A kernel row: one algorithm instantiated for one arch and one dtype. Scratch is 64-byte aligned, of
// the size the row asks for, private to the running task and not cleared. Nothing here throws.
//
// rate: useful flops per second of its multiplication on operands in L1, measured for about 20 µs: what the
// instruction does on this machine, which a CPUID bit does not tell.
struct Forward {
  std::size_t (*scratch_bytes)(const Shape&, const Blocking&);
  void (*run)(const ForwardArgs&, const ForwardTask&, std::byte* scratch);
  void (*merge)(const ForwardArgs&, const MergeTask&);
  double (*rate)();
  Show show = nullptr;  // null: this kernel has no use for it
};
struct Backward {
  std::size_t (*scratch_bytes)(const Shape&, const Blocking&);
  void (*run)(const BackwardArgs&, const BackwardTask&, std::byte* scratch);
  void (*merge)(const BackwardArgs&, const BackwardMergeTask&);
  double (*rate)();
  Show show;
};

// Query rows of a task, heads of a group together, that a decode kernel has room for; the machine table says
// up to how many it is taken.
inline constexpr int kDecodeRows = 16;

enum class Algorithm : std::uint8_t {
  forward,  // packed blocks; any number of rows
  decode,   // unpacked rows, group × rows <= kDecodeRows; same contract as forward
  backward,
  integer,  // forward of int8 operands; no splits over keys
};

struct Row {
  const char* name;  // "forward_avx512_bf16": also what FUSION_ATTENTION_KERNEL matches
  Algorithm algorithm;
  const char* arch;  // "scalar", "avx2", "avx512", "avx512_bf16", "amx", "amx_emulated"
  Dtype dtype;
  const Forward* forward;    // for all but backward
  const Backward* backward;  // for backward
};

// Every kernel row of this build, in the order of kernels.def.
struct RowList {
  const Row* begin_;
  const Row* end_;
  const Row* begin() const { return begin_; }
  const Row* end() const { return end_; }
};
RowList rows();

}  // namespace fusion_attention::kernels
