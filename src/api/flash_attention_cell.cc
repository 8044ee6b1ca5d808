#include "fusion_attention/families/flash_attention_cell.h"

#include <algorithm>
#include <cmath>
#include <new>

#include "api/additive_mask.h"
#include "api/refuse.h"
#include "fusion_attention/run.h"
#include "problem/layout.h"

namespace fusion_attention {
namespace {

bool is_floating(Element element) {
  return element == Element::float32 || element == Element::float16 || element == Element::bfloat16;
}

bool is_byte(Element element) {
  return element == Element::boolean || element == Element::uint8 || element == Element::int8;
}

// T of a tiling strategy.
std::int64_t tile_of(const std::string& strategy) {
  if (strategy == "sparse" || strategy == "xunfei") return 128;
  if (strategy == "wukong") return 64;
  refuse("tiling_stgy_name", quoted(strategy), "\"sparse\", \"xunfei\" or \"wukong\"");
}

void check_operand(const char* argument, const Array& array, const Array& query) {
  if (!array) refuse_type(argument, "None", "a tensor");
  if (!is_floating(array.element))
    refuse_type(argument, std::string("dtype ") + name(array.element), "float16, bfloat16 or float32");
  if (array.element != query.element)
    refuse_type(argument, std::string("dtype ") + name(array.element),
                std::string("query's dtype ") + name(query.element));
  if (array.rank != 4)
    refuse(argument, "rank " + number(array.rank), "[batch_size, head_num, seq_length, head_dim]");
}

void check_shapes(const Array& query, const Array& key, const Array& value,
                  const FlashAttentionCellOptions& options) {
  if (query.shape[3] != options.head_dim)
    refuse("query", shape_text(query), "a last axis of head_dim = " + number(options.head_dim));
  const std::array<std::int64_t, 4> like_query{query.shape[0], query.shape[1], key.shape[2], query.shape[3]};
  for (const auto& [argument, array] : {std::pair{"key", &key}, std::pair{"value", &value}})
    if (!std::equal(like_query.begin(), like_query.end(), array->shape.begin()))
      refuse(argument, shape_text(*array),
             shape_text(like_query.data(), 4) + ", with query's batch_size, head_num and head_dim");
  for (const auto& [argument, parts, axis] :
       {std::tuple{"dp", options.dp, 0}, std::tuple{"mp", options.mp, 1}}) {
    const std::int64_t size = query.shape[static_cast<std::size_t>(axis)];
    if (size % parts != 0)
      refuse(argument, number(parts),
             std::string("a divisor of the ") + (axis == 0 ? "batch_size " : "head_num ") + number(size));
  }
}

// T again; the constructor's words by themselves.
std::int64_t check_words(const FlashAttentionCellOptions& options) {
  const std::int64_t tile = tile_of(options.tiling_stgy_name);
  if (options.head_dim < 1) refuse("head_dim", number(options.head_dim), "1 or more");
  if (!(options.dropout_rate >= 0 && options.dropout_rate < 1))
    refuse("dropout_rate", std::to_string(options.dropout_rate), "at least 0 and below 1");
  if (options.prev_block_num < 0) refuse("prev_block_num", number(options.prev_block_num), "0 or more");
  if (options.next_block_num < 0) refuse("next_block_num", number(options.next_block_num), "0 or more");
  if (options.dp < 1) refuse("dp", number(options.dp), "1 or more");
  if (options.mp < 1) refuse("mp", number(options.mp), "1 or more");
  return tile;
}

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

// The mask with a batch axis of 1 or B.
Array with_batch(const FlashAttentionCellOptions& options, std::int64_t batches) {
  Array mask = options.attention_mask;
  if (!is_floating(mask.element) && !is_byte(mask.element))
    refuse_type("attention_mask", std::string("dtype ") + name(mask.element),
                "float16, bfloat16, float32, bool, uint8 or int8");
  const bool has_batch = options.have_attention_mask_batch;
  if (mask.rank == 2 && !has_batch) {
    mask.rank = 3;
    mask.shape = {1, mask.shape[0], mask.shape[1]};
    mask.stride = {0, mask.stride[0], mask.stride[1]};
  }
  if (mask.rank != 3)
    refuse("attention_mask", "rank " + number(mask.rank), has_batch ? "rank 3" : "rank 3 or 2");
  if (mask.shape[0] != 1 && (!has_batch || mask.shape[0] != batches))
    refuse("attention_mask", shape_text(mask),
           has_batch ? "a first axis of 1 or the batch_size " + number(batches)
                     : "a first axis of 1 while have_attention_mask_batch is False");
  return mask;
}

// Whether the mask is one tile, in force on the diagonal, rather than one of every row and key.
bool is_tile(const Array& mask, std::int64_t tile, std::int64_t rows, std::int64_t keys) {
  if (mask.shape[1] == rows && mask.shape[2] == keys) return false;
  if (mask.shape[0] == 1 && mask.shape[1] == tile && mask.shape[2] == tile) return true;
  refuse("attention_mask", shape_text(mask),
         "(1 or batch_size, " + number(rows) + ", " + number(keys) + ") or (1, " + number(tile) + ", " +
             number(tile) + ")");
}

void check_alibi(const FlashAttentionCellOptions& options, const TensorView& query, std::int64_t keys) {
  const Array& alibi = options.alibi_mask;
  if (!options.alibi) {
    if (alibi) refuse("alibi_mask", "a tensor", "None while alibi is False");
    return;
  }
  if (!alibi) refuse("alibi_mask", "None", "a tensor while alibi is True");
  if (!is_floating(alibi.element))
    refuse_type("alibi_mask", std::string("dtype ") + name(alibi.element), "float16, bfloat16 or float32");
  const std::array<std::int64_t, 4> shape{query.batches(), query.heads(), 1, keys};
  if (alibi.rank != 4 || (alibi.shape[0] != 1 && alibi.shape[0] != shape[0]) ||
      !std::equal(shape.begin() + 1, shape.end(), alibi.shape.begin() + 1))
    refuse("alibi_mask", shape_text(alibi), shape_text(shape.data(), 4));
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

// A causal mask ends the band; else one of zeros and ones hides; else numbers are added, in memory of the
// size of the scores.
void FlashAttentionCell::add_masks(const FlashAttentionCellOptions& options, std::int64_t tile) {
  const std::int64_t rows = problem_.query.rows(), keys = problem_.key.rows();
  if (problem_.query.batches() == 0) return;
  if (options.alibi) {
    bias_ = read_alibi(options.alibi_mask);
    set_planes(problem_, options.alibi_mask.shape[0], {.head = keys}, problem_.query.heads() * keys);
  }
  if (options.attention_mask) {
    const Array array = with_batch(options, problem_.query.batches());
    const bool small = is_tile(array, tile, rows, keys);
    const AdditiveMask mask(array, small ? tile : 0, rows, keys);
    const bool tiles_after = small && options.next_block_num > 0 && keys > tile;
    if (tiles_after)
      notes_.push_back("attention_mask of shape " + shape_text(array) +
                       " acts on the tiles of the diagonal alone: with next_block_num = " +
                       number(options.next_block_num) + " the tiles after it are seen in full");
    if (!tiles_after && mask.causal()) {
      for (Sequence& sequence : problem_.sequences)
        (sequence.band.full() ? sequence.band.hi : sequence.band.reach) = 0;
    } else if (hidden_ = mask.hidden(problem_.sequences[0].band); !hidden_.empty()) {
      if (std::find(hidden_.begin(), hidden_.end(), 1) != hidden_.end())
        problem_.overlay = {hidden_.data(), {mask.batches() == 1 ? 0 : rows * keys, 0, keys, 1}};
    } else {
      bias_ = materialise(mask, bias_, problem_);
    }
  }
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
  problem_.output.data = out;
  problem_.statistics.max = softmax_max;
  problem_.statistics.sum = softmax_sum;
  run(problem_);
}

void FlashAttentionCell::backward(const Array& dy, const Array& out, const float* softmax_max,
                                  const float* softmax_sum, void* dq, void* dk, void* dv) {
  problem_.output_gradient = like_query(dy, "dy");
  problem_.output = like_query(out, "out");
  problem_.statistics.max = const_cast<float*>(softmax_max);  // read by this pass
  problem_.statistics.sum = const_cast<float*>(softmax_sum);
  const auto gradient = [](void* data, const Array& of) {
    return view_of(contiguous_array(data, of.element, of.shape.data(), of.rank), Layout::bnsd, of.shape[1]);
  };
  problem_.query_gradient = gradient(dq, query_);
  problem_.key_gradient = gradient(dk, key_);
  problem_.value_gradient = gradient(dv, value_);
  run(problem_);
}

}  // namespace fusion_attention
