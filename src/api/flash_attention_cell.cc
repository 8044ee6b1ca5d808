#include "fusion_attention/families/flash_attention_cell.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <new>

#include "api/additive_mask.h"
#include "api/cell_arguments.h"
#include "api/diagonal_tiles.h"
#include "api/join.h"
#include "api/refuse.h"
#include "fusion_attention/run.h"
#include "problem/layout.h"

namespace fusion_attention {
namespace {

// Rows of tile qb see the keys of tiles qb - prev ... qb + next; an end that no tile reaches is none.
Band block_band(const FlashAttentionCellOptions& options, std::int64_t tile, std::int64_t rows,
                std::int64_t keys) {
  Band band;
  band.block = tile;
  if (options.prev_block_num < (rows - 1) / tile) band.lo = -tile * options.prev_block_num;
  if (options.next_block_num < (keys - 1) / tile) band.hi = tile * (options.next_block_num + 1) - 1;
  if (band.full()) band.block = 1;
  return band;
}

// [batches of alibi, heads, keys] as floats.
std::vector<float> read_alibi(const Array& alibi) {
  const std::int64_t heads = alibi.shape[1], keys = alibi.shape[3];
  std::vector<float> values(static_cast<std::size_t>(alibi.shape[0] * heads * keys));
  float* to = values.data();
  for (std::int64_t batch = 0; batch < alibi.shape[0]; ++batch)
    for (std::int64_t head = 0; head < heads; ++head, to += keys)
      read_floats(alibi, batch * alibi.stride[0] + head * alibi.stride[1], alibi.stride[3], keys, to);
  return values;
}

// The base of each batch entry in an array that has `batches` of them, 1 or all.
void set_planes(Problem& problem, std::int64_t batches, const Plane& plane, std::int64_t step) {
  for (Sequence& sequence : problem.sequences) {
    sequence.bias = plane;
    sequence.bias.base = batches == 1 ? 0 : sequence.batch * step;
  }
}

// Numbers for every pair: the mask's and, where there is one, the alibi of each head.
std::vector<float> materialise(const AdditiveMask& mask, const std::vector<float>& alibi, Problem& problem) {
  const std::int64_t rows = problem.query.rows(), keys = problem.key.rows();
  const std::int64_t heads = alibi.empty() ? 1 : problem.query.heads();
  const std::int64_t per_batch = heads * keys;  // of alibi
  const std::int64_t alibi_batches = alibi.empty() ? 1 : static_cast<std::int64_t>(alibi.size()) / per_batch;
  const std::int64_t batches = std::max(mask.batches(), alibi_batches);
  std::vector<float> bias(static_cast<std::size_t>(batches * heads * rows * keys));
  float* to = bias.data();
  for (std::int64_t batch = 0; batch < batches; ++batch)
    for (std::int64_t head = 0; head < heads; ++head)
      for (std::int64_t row = 0; row < rows; ++row, to += keys) {
        if (!alibi.empty()) {
          const float* from = alibi.data() + (alibi_batches == 1 ? 0 : batch * per_batch) + head * keys;
          std::copy(from, from + keys, to);
        }
        mask.add_row(mask.batches() == 1 ? 0 : batch, row, to);
      }
  set_planes(problem, batches, {.head = heads == 1 ? 0 : rows * keys, .row = keys}, heads * rows * keys);
  return bias;
}

// Memory of a call, uninitialised.
class Memory {
 public:
  explicit Memory(std::int64_t bytes) : data_(std::malloc(static_cast<std::size_t>(bytes) + 1)) {
    if (!data_)
      throw Error(ErrorKind::memory, "workspace", number(bytes) + " bytes", "what the system can allocate");
  }
  Memory(const Memory&) = delete;
  ~Memory() { std::free(data_); }

  void* get() const { return data_; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_;
};

std::int64_t count(const Array& array) {
  return array.shape[0] * array.shape[1] * array.shape[2] * array.shape[3];
}

TensorView contiguous_like(const Array& array, void* data) {
  return view_of(contiguous_array(data, array.element, array.shape.data(), array.rank), Layout::bnsd,
                 array.shape[1]);
}

std::vector<Sequence> sequences(const FlashAttentionCellOptions& options, const Problem& problem,
                                const Band& band) {
  const TensorView& query = problem.query;
  const std::int64_t rows = query.rows(), keys = problem.key.rows();
  const std::int64_t heads = options.all_heads == 0 ? query.heads() : options.all_heads;
  if (options.first_batch < 0 || options.first_head < 0 || options.first_head + query.heads() > heads)
    refuse("first_head", number(options.first_head), "a slice within all_heads = " + number(heads));
  std::vector<Sequence> all;
  for (std::int64_t batch = 0; batch < query.batches(); ++batch) {
    Sequence sequence{.batch = batch, .rows = rows, .keys = keys, .band = band};
    sequence.dropout = {.base = ((options.first_batch + batch) * heads + options.first_head) * rows * keys,
                        .head = rows * keys,
                        .row = keys};
    all.push_back(sequence);
  }
  return all;
}

}  // namespace

void FlashAttentionCell::check(const FlashAttentionCellOptions& options) {
  check_words(options);
}

FlashAttentionCell::FlashAttentionCell(Pass pass, const Array& query, const Array& key, const Array& value,
                                       const FlashAttentionCellOptions& options)
    : query_(query), key_(key), value_(value) {
  const std::int64_t tile = check_words(options);
  check_operand("query", query, query);
  check_operand("key", key, query);
  check_operand("value", value, query);
  check_shapes(query, key, value, options);

  problem_.pass = pass;
  problem_.scale = 1 / std::sqrt(static_cast<double>(options.head_dim));
  problem_.query = view_of(query, Layout::bnsd, query.shape[1]);
  problem_.key = view_of(key, Layout::bnsd, key.shape[1]);
  problem_.value = view_of(value, Layout::bnsd, value.shape[1]);
  problem_.output = like_query(contiguous_array(nullptr, query.element, query.shape.data(), 4), "out");
  problem_.statistics.copies = 1;
  problem_.statistics.order = StatisticsOrder::row_major;
  problem_.dropout = {.keep_prob = 1 - options.dropout_rate, .seed = options.seed, .offset = options.offset};
  check_alibi(options, problem_.query, problem_.key.rows());
  problem_.sequences =
      sequences(options, problem_, block_band(options, tile, problem_.query.rows(), problem_.key.rows()));
  try {
    add_masks(options, tile);
  } catch (const std::bad_alloc&) {
    throw Error(ErrorKind::memory, "attention_mask", "a mask of which a copy does not fit memory",
                "what the system can allocate");
  }
}

void FlashAttentionCell::add_masks(const FlashAttentionCellOptions& options, std::int64_t tile) {
  if (problem_.query.batches() == 0) return;
  if (options.alibi) {
    bias_ = read_alibi(options.alibi_mask);
    const std::int64_t keys = problem_.key.rows();
    set_planes(problem_, options.alibi_mask.shape[0], {.head = keys}, problem_.query.heads() * keys);
  }
  if (options.attention_mask) {
    const Array array = with_batch(options, problem_.query.batches());
    const bool small = is_tile(array, tile, problem_.query.rows(), problem_.key.rows());
    const AdditiveMask mask(array);
    const bool open = small && options.next_block_num > 0 && problem_.key.rows() > tile;
    if (open)
      notes_.push_back("attention_mask of shape " + shape_text(array) +
                       " acts on the tiles of the diagonal alone: with next_block_num = " +
                       number(options.next_block_num) + " the tiles after it are seen in full");
    if (!open && mask.causal()) {
      for (Sequence& sequence : problem_.sequences)
        (sequence.band.full() ? sequence.band.hi : sequence.band.reach) = 0;
    } else if (small) {
      add_tile(mask, tile);
      return;
    } else {
      add_mask(mask);
    }
  }
  set_bias();
}

// A mask for every row and key: bytes that hide, or numbers to add.
void FlashAttentionCell::add_mask(const AdditiveMask& mask) {
  const std::int64_t rows = problem_.query.rows(), keys = problem_.key.rows();
  hidden_ = mask.hidden(problem_.sequences[0].band);
  if (hidden_.empty()) {
    bias_ = materialise(mask, bias_, problem_);
  } else if (std::find(hidden_.begin(), hidden_.end(), 1) != hidden_.end()) {
    problem_.overlay = {hidden_.data(), {mask.batches() == 1 ? 0 : rows * keys, 0, keys, 1}};
  }
}

// A mask for the tiles of the diagonal.
void FlashAttentionCell::add_tile(const AdditiveMask& mask, std::int64_t tile) {
  std::vector<float> added(static_cast<std::size_t>(tile * tile));
  for (std::int64_t row = 0; row < tile; ++row) mask.add_row(0, row, added.data() + row * tile);
  set_bias();
  more_ = split_at_diagonal(problem_, tile, added, tile_bias_);
  problem_ = more_.front();
  more_.erase(more_.begin());
}

void FlashAttentionCell::set_bias() {
  if (bias_.empty()) return;
  problem_.bias.kind = BiasKind::dense;
  problem_.bias.data = bias_.data();
  problem_.bias.elements = static_cast<std::int64_t>(bias_.size());
}

TensorView FlashAttentionCell::like_query(const Array& array, const char* argument) const {
  if (array.element != query_.element || array.rank != 4 ||
      !std::equal(query_.shape.begin(), query_.shape.begin() + 4, array.shape.begin()))
    refuse(argument, shape_text(array) + " of dtype " + name(array.element),
           shape_text(query_) + " of query's dtype " + name(query_.element));
  return view_of(array, Layout::bnsd, query_.shape[1]);
}

void FlashAttentionCell::forward(void* out, float* softmax_max, float* softmax_sum) {
  const RowResults all{out, softmax_max, softmax_sum};
  const auto compute = [](Problem& problem, const RowResults& results) {
    problem.output.data = results.output;
    problem.statistics.max = results.max;
    problem.statistics.sum = results.sum;
    run(problem);
  };
  if (more_.empty()) return compute(problem_, all);
  const std::int64_t rows = query_.shape[0] * query_.shape[1] * query_.shape[2];
  Memory output(count(query_) * size_of(query_.element)), max(rows * 4), sum(rows * 4);
  const RowResults part{output.get(), max.as<float>(), sum.as<float>()};
  compute(problem_, all);
  for (Problem& problem : more_) {
    compute(problem, part);
    join(problem.output, all, part);
  }
}

void FlashAttentionCell::backward(const Array& dy, const Array& out, const float* softmax_max,
                                  const float* softmax_sum, void* dq, void* dk, void* dv) {
  problem_.output_gradient = like_query(dy, "dy");
  problem_.output = like_query(out, "out");
  problem_.statistics.max = const_cast<float*>(softmax_max);  // read by this pass
  problem_.statistics.sum = const_cast<float*>(softmax_sum);
  const std::int64_t queries = count(query_), keys = count(key_), size = size_of(query_.element);
  const auto compute = [&](Problem& problem, void* for_query, void* for_key, void* for_value) {
    problem.output_gradient = problem_.output_gradient;
    problem.output = problem_.output;
    problem.statistics = problem_.statistics;
    problem.query_gradient = contiguous_like(query_, for_query);
    problem.key_gradient = contiguous_like(key_, for_key);
    problem.value_gradient = contiguous_like(value_, for_value);
    run(problem);
  };
  if (more_.empty()) return compute(problem_, dq, dk, dv);
  Memory for_query(queries * size), for_key(keys * size), for_value(keys * size);
  compute(problem_, dq, dk, dv);
  for (Problem& problem : more_) {
    compute(problem, for_query.get(), for_key.get(), for_value.get());
    add(problem.query.dtype, queries, dq, for_query.get());
    add(problem.query.dtype, keys, dk, for_key.get());
    add(problem.query.dtype, keys, dv, for_value.get());
  }
}

}  // namespace fusion_attention
