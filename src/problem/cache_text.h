// The words of a problem's line that say how its keys and values are stored.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "fusion_attention/problem.h"
#include "problem/reader.h"

namespace fusion_attention {

// What a line describes has no memory: a marker address that nothing may follow.
alignas(std::max_align_t) inline constexpr std::uint8_t kDescribed[sizeof(std::max_align_t)] = {};

// key(int8,nd,fp16,offset): scales along heads and channels, and offsets like them.
struct StoredLine {
  Dtype dtype = Dtype::int8;
  bool scaled = false, offset = false;
  std::string axes;
  Dtype scale_dtype = Dtype::float32;
};

struct CacheLine {
  std::int64_t page = 0;              // rows; 0: no pages
  std::vector<std::int64_t> prefix;  // none, one for all, or one per sequence
  std::int64_t rope = 0;
  std::optional<StoredLine> key, value;
};

// The k of a line: rows of key or, in pages, the most that a sequence has behind its prefix.
std::int64_t own_keys(const Problem& problem);

std::string cache_text(const Problem& problem);

// Whether the word was one of a cache.
bool read_cache(Reader& reader, CacheLine& line);

// Makes the keys of a plain problem those of the line: a prefix comes before the keys of sequences that are not
// `listed`; the pages of a sequence follow those of the one before.
void describe_cache(const CacheLine& line, bool listed, Problem& problem);

}  // namespace fusion_attention
