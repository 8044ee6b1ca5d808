#include "api/cell_arguments.h"

#include <algorithm>
#include <array>
#include <string>
#include <tuple>
#include <utility>

#include "api/refuse.h"

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

}  // namespace

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

}  // namespace fusion_attention
