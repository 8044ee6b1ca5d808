#include "api/stored_keys.h"

#include <algorithm>
#include <limits>
#include <string>

#include "api/operands.h"
#include "api/refuse.h"
#include "problem/reach.h"

namespace fusion_attention {
namespace {

// Eight int4 to an int32: the same memory counted in int4.
Array unpacked(const char* argument, const Array& array) {
  const auto last = static_cast<std::size_t>(array.rank - 1);
  if (array.shape[last] > 1 && array.stride[last] != 1)
    refuse(argument, "strides", "a contiguous last axis of int4 numbers");
  Array wide = array;
  wide.shape[last] *= 8;
  for (std::size_t axis = 0; axis < last; ++axis) wide.stride[axis] *= 8;
  wide.stride[last] = 1;
  return wide;
}

Layout layout_of_pages(const Array& array) {
  return array.rank == 3 ? Layout::bsh : Layout::bnsd;
}

void check_table(const Spelling& spelling, const StoredKeys& words, const Problem& problem) {
  const Array& table = words.block_table;
  if (table.element != Element::int32)
    refuse("block_table", std::string("dtype ") + name(table.element), "int32");
  const auto batches = static_cast<std::int64_t>(problem.sequences.size());
  std::int64_t longest = 0;
  for (const Sequence& s : problem.sequences) longest = std::max(longest, s.keys);
  const std::int64_t needed = pages_of(longest, words.block_size);
  if (table.rank != 2 || table.shape[0] != batches || table.shape[1] < needed) {
    refuse("block_table", shape_text(table),
           "[" + number(batches) + ", " + number(needed) + " or more] for " + spelling.actual_seq_lengths_kv);
  }
}

void copy_table(const Array& table, std::int64_t page_rows, Problem& problem,
                std::vector<std::int32_t>& copied) {
  std::int64_t width = 0;
  for (const Sequence& s : problem.sequences) width = std::max(width, pages_of(s.keys, page_rows));
  copied.assign(problem.sequences.size() * static_cast<std::size_t>(width), 0);
  const auto* entries = static_cast<const std::int32_t*>(table.data);
  for (std::size_t b = 0; b < problem.sequences.size(); ++b) {
    Sequence& sequence = problem.sequences[b];
    const auto row = static_cast<std::int64_t>(b);
    sequence.page = row * width;
    for (std::int64_t t = 0; entries && t < pages_of(sequence.keys, page_rows); ++t)
      copied[static_cast<std::size_t>(sequence.page + t)] =
          entries[row * table.stride[0] + t * table.stride[1]];
  }
}

void place_in_pages(const Spelling& spelling, const StoredKeys& words, Problem& problem,
                    StoredKeysMemory& memory) {
  check_table(spelling, words, problem);
  copy_table(words.block_table, problem.key.rows(), problem, memory.table);
  // A table without entries is a table all the same.
  if (memory.table.empty()) memory.table.push_back(0);
  problem.cache.pages = {memory.table.data(), static_cast<std::int64_t>(memory.table.size())};
}

std::int64_t padding_of(const char* argument, const Array& padding) {
  if (padding.element != Element::int64 && padding.element != Element::int32)
    refuse(argument, std::string("dtype ") + name(padding.element), "int64");
  if (padding.rank > Array::kMaxRank || count(padding) != 1) refuse(argument, shape_text(padding), "[1]");
  if (!padding.data) return 0;
  const std::int64_t given = padding.element == Element::int64
                                 ? *static_cast<const std::int64_t*>(padding.data)
                                 : *static_cast<const std::int32_t*>(padding.data);
  return std::max<std::int64_t>(given, 0);
}

void check_dense(const char* argument, Layout layout, const StoredKeys& words) {
  if (is_packed(layout)) refuse(argument, "a tensor", "None for packed sequences");
  if (words.key_shared_prefix) refuse(argument, "a tensor", "None with a shared prefix");
}

// One row whose window begins before key 0 sees nothing, as documented; more rows are an error.
void place_left(const StoredKeys& words, Problem& problem) {
  const std::int64_t length = problem.key.rows(),
                     padding = padding_of("kv_padding_size", words.kv_padding_size);
  for (Sequence& sequence : problem.sequences) {
    const std::int64_t first = length - padding - sequence.keys;
    if (first < 0 && problem.query.rows() > 1) {
      refuse("kv_padding_size", number(padding) + " with " + number(sequence.keys) + " keys",
             "a window within Skv = " + number(length));
    }
    sequence.key = std::max<std::int64_t>(first, 0);
    if (first < 0) sequence.keys = 0;
  }
}

}  // namespace

bool is_quantised(Element element) {
  return element == Element::int8 || element == Element::int32;
}

TensorView stored_view(const char* argument, const Array& array, Layout layout, const StoredKeys& words,
                       std::int64_t heads) {
  const bool paged = static_cast<bool>(words.block_table);
  if (paged && (array.rank < 3 || array.rank > 4)) {
    refuse(argument, "rank " + number(array.rank),
           "a pool [pages, block_size, heads * D] or [pages, heads, block_size, D]");
  }
  const bool int4 = array.element == Element::int32;
  TensorView view = view_with_heads(argument, int4 ? unpacked(argument, array) : array,
                                    paged ? layout_of_pages(array) : layout, "num_key_value_heads", heads);
  if (int4) view.dtype = Dtype::int4;
  if (paged && view.rows() != words.block_size) {
    refuse("block_size", number(words.block_size),
           std::string("the rows of ") + argument + "'s pages, " + number(view.rows()) + " and 1 or more");
  }
  if (paged && view.rows() < 1) refuse("block_size", number(words.block_size), "1 or more");
  return view;
}

std::int64_t most_keys(const StoredKeys& words, const TensorView& key) {
  if (!words.block_table) return key.rows();
  const Array& table = words.block_table;
  if (table.rank != 2) refuse("block_table", shape_text(table), "[B, pages of the longest sequence]");
  std::int64_t most = 0;
  const bool overflows = __builtin_mul_overflow(table.shape[1], words.block_size, &most);
  return overflows ? std::numeric_limits<std::int64_t>::max() : most;
}

void place_keys(const Spelling& spelling, const StoredKeys& words, Layout layout, bool has_lengths,
                Problem& problem, StoredKeysMemory& memory) {
  if (words.block_table) {
    if (words.kv_padding_size) refuse("kv_padding_size", "a tensor", "None with block_table");
    place_in_pages(spelling, words, problem, memory);
  }
  if (words.kv_padding_size) {
    check_dense("kv_padding_size", layout, words);
    if (has_lengths) place_left(words, problem);
  }
}

void check_pages(const StoredKeys& words, const Problem& problem) {
  if (!words.block_table || !words.block_table.data) return;
  const std::int64_t rows = problem.key.rows(), pages = problem.key.batches();
  for (std::size_t b = 0; b < problem.sequences.size(); ++b) {
    const Sequence& sequence = problem.sequences[b];
    const Interval reached = reached_pages(sequence, rows);
    for (std::int64_t t = reached.begin; t < reached.end; ++t) {
      const std::int32_t page = problem.cache.pages.table[sequence.page + t];
      if (page >= 0 && page < pages) continue;
      refuse("block_table",
             number(page) + " at [" + number(static_cast<std::int64_t>(b)) + ", " + number(t) + "]",
             "a page of the pool, 0 to " + number(pages - 1));
    }
  }
}

void place_rows(const StoredKeys& words, Layout layout, bool has_lengths, Problem& problem) {
  if (!words.query_padding_size) return;
  check_dense("query_padding_size", layout, words);
  const std::int64_t length = problem.query.rows();
  if (!has_lengths || length == 1) return;
  const std::int64_t padding = padding_of("query_padding_size", words.query_padding_size);
  for (Sequence& sequence : problem.sequences) {
    sequence.row = length - padding - sequence.rows;
    if (sequence.row < 0) {
      refuse("query_padding_size", number(padding) + " with " + number(sequence.rows) + " rows",
             "a window within Sq = " + number(length));
    }
  }
}

}  // namespace fusion_attention
