// From the words of StoredKeys to Problem::key, value, cache and the places of the sequences in them. All
// throw Error.
#pragma once

#include <cstdint>
#include <vector>

#include "api/antiquant.h"
#include "api/inference_operands.h"
#include "api/inference_spelling.h"
#include "fusion_attention/families/stored_keys.h"
#include "fusion_attention/problem.h"
#include "problem/layout.h"

namespace fusion_attention {

// What a Problem with a cache points to beside the caller's memory. The table is a copy: what has been
// checked is what the library reads.
struct StoredKeysMemory {
  std::vector<std::int32_t> table;
};

bool is_quantised(Element element);  // int8 or, eight to an int32, int4

// key, value or key_rope as it is stored: [B, heads, Skv, D], or the pool [pages, heads, P, D].
TensorView stored_view(const char* argument, const Array& array, Layout layout, const StoredKeys& words,
                       std::int64_t heads);

// The most keys of its own that a sequence can have.
std::int64_t most_keys(const StoredKeys& words, const TensorView& key);

// Where the sequences' keys lie: their pages, what is left of them, the prefix before them. `problem` has
// key, value and sequences with their own keys. `has_lengths`: the caller gave those of the keys.
void place_keys(const Spelling& spelling, const StoredKeys& words, Layout layout, bool has_lengths,
                Problem& problem, StoredKeysMemory& memory);

// Every page that a row can see is one of the pool. After the mask; reads the table.
void check_pages(const StoredKeys& words, const Problem& problem);

// Rows that end query_padding_size before the last. `has_lengths`: the caller gave those of query.
void place_rows(const StoredKeys& words, Layout layout, bool has_lengths, Problem& problem);

// Keys that every sequence has before its own: Problem::cache and the sequences. After place_keys.
void apply_prefix(const StoredKeys& words, const Array& key, const Array& value, Layout layout,
                  Problem& problem);

// Sets Problem::cache.key_rope; gives query's rope part, which the family joins to query.
TensorView read_stored_rope(const Spelling& spelling, const StoredKeys& words, const Array& query,
                            Layout layout, const Problem& problem, Cache& cache);

// The scales of int8 and int4. After place_keys and apply_prefix.
void apply_antiquant(const Spelling& spelling, const StoredKeys& words, Layout layout, Problem& problem);

}  // namespace fusion_attention
