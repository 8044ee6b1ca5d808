#include <algorithm>
#include <string>
#include <tuple>

#include "api/operands.h"
#include "api/refuse.h"
#include "api/stored_keys.h"

namespace fusion_attention {
namespace {

TensorView prefix_view(const char* argument, const Array& prefix, const Array& like, Layout layout,
                       const TensorView& stored) {
  if (!prefix) refuse(argument, "None", "a tensor: both prefixes or none");
  if (prefix.element != like.element) {
    refuse(argument, std::string("dtype ") + name(prefix.element),
           std::string("key's dtype ") + name(like.element));
  }
  if (prefix.rank != rank_of(layout))
    refuse(argument, "rank " + number(prefix.rank), "rank " + number(rank_of(layout)));
  const bool other_heads =
      !merges_heads(layout) && view_of(prefix, layout, stored.heads()).heads() != stored.heads();
  if (other_heads) refuse(argument, shape_text(prefix), "key's " + number(stored.heads()) + " heads");
  const TensorView view = stored_view(argument, prefix, layout, {}, stored.heads());
  if (view.batches() != 1 || view.channels() != stored.channels())
    refuse(argument, shape_text(prefix), "one batch entry of key's heads and channels");
  if (is_quantised(prefix.element) && view.channels() > 1 && view.stride[3] != 1)
    refuse(argument, "channels " + number(view.stride[3]) + " apart", "channels side by side");
  return view;
}

std::int64_t prefix_length(const StoredKeys& words, std::int64_t rows) {
  const auto& given = words.actual_shared_prefix_len;
  if (!given) return rows;
  if (given->size() != 1) {
    refuse("actual_shared_prefix_len", number(static_cast<std::int64_t>(given->size())) + " numbers", "one");
  }
  const std::int64_t length = given->front();
  if (length < 0 || length > rows)
    refuse("actual_shared_prefix_len", number(length), "0 to the prefix's " + number(rows) + " rows");
  return length;
}

// The scales of one operand, or half of those that key and value share.
Antiquant antiquant_of(const Spelling& spelling, const StoredKeys& words, bool key) {
  const Array& scale = key ? words.key_antiquant_scale : words.value_antiquant_scale;
  if (scale || !words.antiquant_scale) {
    return {spelling.of(key ? "key_antiquant_scale" : "value_antiquant_scale"),
            spelling.of(key ? "key_antiquant_offset" : "value_antiquant_offset"),
            spelling.of(key ? "key_antiquant_mode" : "value_antiquant_mode"),
            scale,
            key ? words.key_antiquant_offset : words.value_antiquant_offset,
            key ? words.key_antiquant_mode : words.value_antiquant_mode};
  }
  const std::int64_t half = key ? 0 : 1;
  return {"antiquant_scale",
          "antiquant_offset",
          "antiquant_mode",
          half_of("antiquant_scale", words.antiquant_scale, half),
          words.antiquant_offset ? half_of("antiquant_offset", words.antiquant_offset, half) : Array{},
          words.antiquant_mode};
}

// What says how to read scales that are not there.
void check_without_scales(const Spelling& spelling, const StoredKeys& words) {
  const std::string allowed = std::string(" without ") + spelling.of("key_antiquant_scale");
  if (words.key_antiquant_offset) refuse(spelling.of("key_antiquant_offset"), "a tensor", "None" + allowed);
  for (const auto& [mode, given] : {std::pair{"key_antiquant_mode", words.key_antiquant_mode},
                                    std::pair{"value_antiquant_mode", words.value_antiquant_mode}})
    if (given != 0) refuse(spelling.of(mode), number(given), "0" + allowed);
}

// Both or neither, and of one mode but for channels of key with tokens of value.
void check_pairs(const Spelling& spelling, const StoredKeys& words) {
  const std::pair<const char*, const Array*> scales[] = {
      {"key_antiquant_scale", &words.key_antiquant_scale},
      {"value_antiquant_scale", &words.value_antiquant_scale}};
  const std::pair<const char*, const Array*> offsets[] = {
      {"key_antiquant_offset", &words.key_antiquant_offset},
      {"value_antiquant_offset", &words.value_antiquant_offset}};
  for (const auto& pair : {scales, offsets}) {
    for (const int missing : {0, 1}) {
      if (!*pair[missing].second && *pair[1 - missing].second) {
        refuse(spelling.of(pair[missing].first), "None",
               std::string("a tensor beside ") + spelling.of(pair[1 - missing].first));
      }
    }
  }
  if (!words.key_antiquant_scale) return check_without_scales(spelling, words);
  const std::int64_t key = words.key_antiquant_mode, value = words.value_antiquant_mode;
  if (key < 0 || key > 5) refuse(spelling.of("key_antiquant_mode"), number(key), "0 to 5");
  if (value != key && !(key == 0 && value == 1)) {
    refuse(spelling.of("value_antiquant_mode"), number(value),
           std::string(spelling.of("key_antiquant_mode")) + "'s " + number(key) + (key == 0 ? ", or 1" : ""));
  }
}

void check_stacked(const StoredKeys& words) {
  const std::int64_t mode = words.antiquant_mode;
  if (words.antiquant_offset && !words.antiquant_scale)
    refuse("antiquant_scale", "None", "a tensor beside antiquant_offset");
  if (!words.antiquant_scale && mode != 0)
    refuse("antiquant_mode", number(mode), "0 without antiquant_scale");
  if (words.antiquant_scale && (mode < 0 || mode > 1)) refuse("antiquant_mode", number(mode), "0 or 1");
  const Array &scale = words.antiquant_scale, &offset = words.antiquant_offset;
  if (scale && offset && shape_text(scale) != shape_text(offset))
    refuse("antiquant_offset", shape_text(offset), "antiquant_scale's shape " + shape_text(scale));
}

void check_no_tokens(const Antiquant& given, const Problem& problem, bool packed) {
  const bool tokens = given.mode == 1 || given.mode > 2;
  if (tokens && problem.cache.prefix_key.rows() > 0)
    refuse(given.mode_name, number(given.mode), "0 or 2 with a shared prefix, whose keys have no scale");
  if (tokens && given.mode < 4 && packed)
    refuse(given.mode_name, number(given.mode), "0 or 2 for packed sequences");
}

}  // namespace

void apply_prefix(const StoredKeys& words, const Array& key, const Array& value, Layout layout,
                  Problem& problem) {
  if (!words.key_shared_prefix && !words.value_shared_prefix) {
    if (words.actual_shared_prefix_len)
      refuse("actual_shared_prefix_len", "a number", "None without a shared prefix");
    return;
  }
  if (is_packed(layout)) refuse("key_shared_prefix", "a tensor", "None for packed sequences");
  Cache& cache = problem.cache;
  cache.prefix_key = prefix_view("key_shared_prefix", words.key_shared_prefix, key, layout, problem.key);
  cache.prefix_value =
      prefix_view("value_shared_prefix", words.value_shared_prefix, value, layout, problem.value);
  const std::int64_t rows = cache.prefix_key.rows();
  if (cache.prefix_value.rows() != rows)
    refuse("value_shared_prefix", shape_text(words.value_shared_prefix),
           "key_shared_prefix's length of " + number(rows));
  const std::int64_t length = prefix_length(words, rows);
  for (Sequence& sequence : problem.sequences) {
    sequence.prefix = length;
    sequence.keys += length;
  }
}

TensorView read_stored_rope(const Spelling& spelling, const StoredKeys& words, const Array& query,
                            Layout layout, const Problem& problem, Cache& cache) {
  const Array &query_rope = words.query_rope, &key_rope = words.key_rope;
  if (!query_rope && !key_rope) return {};
  const std::tuple<const char*, const Array&, const char*> ropes[] = {{"query_rope", query_rope, "query"},
                                                                      {"key_rope", key_rope, "query_rope"}};
  for (const auto& [argument, rope, like] : ropes) {
    if (!rope) refuse(argument, "None", "a tensor: both rope parts or none");
    if (rope.element != query.element) {
      refuse(argument, std::string("dtype ") + name(rope.element),
             std::string(like) + "'s dtype " + name(query.element));
    }
  }
  if (words.key_shared_prefix) refuse("query_rope", "a tensor", "None with a shared prefix");
  if (query_rope.rank != rank_of(layout)) refuse("query_rope", shape_text(query_rope), "query's rank");
  const TensorView rows =
      view_with_heads("query_rope", query_rope, layout, spelling.num_heads, problem.query.heads());
  if (!words.block_table && key_rope.rank != rank_of(layout))
    refuse("key_rope", shape_text(key_rope), "key's rank");
  cache.key_rope = stored_view("key_rope", key_rope, layout, words, problem.key.heads());
  const auto alike = [](const TensorView& a, const TensorView& b) {
    return std::equal(a.shape.begin(), a.shape.begin() + 3, b.shape.begin());
  };
  if (!alike(rows, problem.query))
    refuse("query_rope", shape_text(query_rope), "query's shape but for its D");
  if (!alike(cache.key_rope, problem.key))
    refuse("key_rope", shape_text(key_rope), "key's shape but for its D");
  if (cache.key_rope.channels() != rows.channels()) {
    refuse("key_rope", "D = " + number(cache.key_rope.channels()),
           "query_rope's D = " + number(rows.channels()));
  }
  return rows;
}

void apply_antiquant(const Spelling& spelling, const StoredKeys& words, Layout layout, Problem& problem) {
  check_pairs(spelling, words);
  check_stacked(words);
  const Antiquant key = antiquant_of(spelling, words, true), value = antiquant_of(spelling, words, false);
  const bool quantised = problem.key.dtype != problem.query.dtype;
  if (!quantised) {
    if (key) refuse(key.scale_name, "a tensor", "None for key and value of query's dtype");
    return;
  }
  if (!key) {
    refuse("key", std::string("dtype ") + name(problem.key.dtype),
           std::string("a floating point dtype without ") + spelling.of("key_antiquant_scale"));
  }
  Cache& cache = problem.cache;
  const auto batches = static_cast<std::int64_t>(problem.sequences.size());
  for (const Antiquant* given : {&key, &value}) check_no_tokens(*given, problem, is_packed(layout));
  const bool paged = static_cast<bool>(cache.pages);
  std::int64_t tokens = paged ? 0 : problem.key.rows();
  if (paged)
    for (const Sequence& s : problem.sequences) tokens = std::max(tokens, s.keys - s.prefix);
  const auto scaling = [&](const Antiquant& given, const TensorView& stored) {
    return scaling_of(given, stored, problem.query.dtype, batches, tokens, paged);
  };
  cache.key = scaling(key, problem.key);
  cache.value = scaling(value, problem.value);
}

}  // namespace fusion_attention
