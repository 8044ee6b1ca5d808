#include "problem/cache_text.h"

#include <algorithm>

#include "problem/check.h"
#include "problem/contiguous.h"
#include "problem/reach.h"

namespace fusion_attention {
namespace {

constexpr char kAxes[] = "bnrd";
constexpr char kPages[] = "pages(rows), at least 1";
constexpr char kPrefix[] = "prefix(keys[:keys…])";
constexpr char kStored[] = "int8|int4[,axes of b, n, r, d[,fp32|fp16|bf16][,offset][,position]]";
constexpr std::int64_t kMostPages = std::int64_t{1} << 31;

std::string stored_text(const char* what, const TensorView& view, const Scaling& scaling) {
  if (!is_integer(view.dtype)) return "";
  std::string text = std::string(" ") + what + "(" + name(view.dtype);
  const TensorView& numbers = scaling.scale.data ? scaling.scale : scaling.offset;
  if (numbers.data) {
    text += ',';
    for (std::size_t axis = 0; axis < 4; ++axis)
      if (numbers.stride[axis] != 0) text += kAxes[axis];
    if (numbers.dtype != Dtype::float32) text += std::string(",") + name(numbers.dtype);
    if (scaling.offset.data) text += ",offset";
    if (scaling.by_position) text += ",position";
  }
  return text + ")";
}

std::string prefix_text(const Problem& p) {
  bool any = false, alike = true;
  for (const Sequence& s : p.sequences) {
    any |= s.prefix != 0;
    alike &= s.prefix == p.sequences[0].prefix;
  }
  if (!any) return "";
  std::string text = " prefix(" + std::to_string(p.sequences[0].prefix);
  for (std::size_t i = 1; i < p.sequences.size() && !alike; ++i)
    text += ":" + std::to_string(p.sequences[i].prefix);
  return text + ")";
}

StoredLine read_stored(Reader& reader) {
  StoredLine stored;
  if (reader.skip("int4")) {
    stored.dtype = Dtype::int4;
  } else if (!reader.skip("int8")) {
    malformed(reader.word(), kStored);
  }
  if (reader.skip(",")) {
    stored.scaled = true;
    for (const char* axis = kAxes; *axis; ++axis)
      if (reader.skip(std::string_view(axis, 1))) stored.axes += *axis;
    while (reader.skip(",")) {
      if (reader.skip("offset")) {
        stored.offset = true;
      } else if (reader.skip("position")) {
        stored.by_position = true;
      } else if (const auto dtype = reader.floating_dtype()) {
        stored.scale_dtype = *dtype;
      } else {
        malformed(reader.word(), kStored);
      }
    }
  }
  if (!reader.skip(")")) malformed(reader.word(), kStored);
  return stored;
}

// By position, rows are keys behind the prefix.
TensorView described_scales(const StoredLine& stored, const TensorView& of, const Problem& p) {
  TensorView view{
      .data = const_cast<std::uint8_t*>(kDescribed), .dtype = stored.scale_dtype, .shape = of.shape};
  if (stored.by_position) view.shape[0] = p.query.batches(), view.shape[2] = own_keys(p);
  std::int64_t stride = 1;
  for (std::size_t axis = 4; axis-- > 0;) {
    if (stored.axes.find(kAxes[axis]) == std::string::npos) continue;
    view.stride[axis] = stride;
    stride *= std::max<std::int64_t>(view.shape[axis], 1);
  }
  return view;
}

void describe_stored(const std::optional<StoredLine>& stored, const Problem& p, TensorView& view,
                     Scaling& scaling) {
  if (!stored) return;
  view.dtype = stored->dtype;
  scaling.by_position = stored->by_position;
  if (stored->scaled) scaling.scale = described_scales(*stored, view, p);
  if (stored->offset) scaling.offset = scaling.scale;
}

// Entries of the table, a page each.
std::int64_t number_pages(std::int64_t size, Problem& p) {
  std::int64_t entries = 0;
  for (Sequence& s : p.sequences) {
    s.page = entries;
    if (s.keys < s.prefix) malformed(std::to_string(s.keys) + " keys", "at least those of the prefix");
    const std::int64_t own = s.keys - s.prefix;
    entries += own == 0 ? 0 : (own - 1) / size + 1;
    if (entries > kMostPages) malformed(std::to_string(entries) + " pages", "at most 2^31");
  }
  return entries;
}

}  // namespace

std::int64_t own_keys(const Problem& p) {
  return p.cache.pages ? most_own_keys(p) : p.key.rows();
}

std::string cache_text(const Problem& p) {
  if (!has_cache(p)) return "";
  const Cache& c = p.cache;
  std::string text;
  if (c.pages) text += " pages(" + std::to_string(p.key.rows()) + ")";
  text += prefix_text(p);
  if (c.has_rope()) text += " rope(" + std::to_string(c.key_rope.channels()) + ")";
  return text + stored_text("key", p.key, c.key) + stored_text("value", p.value, c.value);
}

bool read_cache(Reader& reader, CacheLine& line) {
  const auto close = [&](const char* allowed) {
    if (!reader.skip(")")) malformed(reader.word(), allowed);
    return true;
  };
  if (reader.skip("pages(")) {
    line.page = reader.take<std::int64_t>(kPages);
    if (line.page < 1) malformed(reader.word(), kPages);
    return close(kPages);
  }
  if (reader.skip("prefix(")) {
    do line.prefix.push_back(reader.take<std::int64_t>(kPrefix));
    while (reader.skip(":"));
    return close(kPrefix);
  }
  if (reader.skip("rope(")) {
    line.rope = reader.take<std::int64_t>("rope(channels)");
    return close("rope(channels)");
  }
  const bool key = reader.skip("key(");
  if (!key && !reader.skip("value(")) return false;
  (key ? line.key : line.value) = read_stored(reader);
  return true;
}

void describe_cache(const CacheLine& line, bool listed, Problem& p) {
  Cache& c = p.cache;
  if (line.prefix.size() > 1 && line.prefix.size() != p.sequences.size())
    malformed("prefix", "one number, or one per sequence");
  std::int64_t prefix = 0;
  for (std::size_t i = 0; i < p.sequences.size() && !line.prefix.empty(); ++i) {
    Sequence& s = p.sequences[i];
    s.prefix = line.prefix[line.prefix.size() > 1 ? i : 0];
    if (s.prefix < 0 || s.prefix > Band::kFar) malformed("prefix", "0 … 2^40 keys");
    if (!listed) s.keys += s.prefix;
    prefix = std::max(prefix, s.prefix);
  }
  if (line.rope < 0 || line.rope > p.query.channels()) malformed("rope", "at most the channels of query");
  std::int64_t batches = p.key.batches(), rows = p.key.rows();
  if (line.page > 0) {
    c.pages = {reinterpret_cast<const std::int32_t*>(kDescribed), number_pages(line.page, p)};
    batches = c.pages.entries, rows = line.page;
  }
  const Dtype dtype = p.query.dtype;
  const std::int64_t heads = p.key.heads(), depth = p.query.channels() - line.rope;
  p.key = contiguous_view(dtype, {batches, heads, rows, depth});
  p.value = contiguous_view(dtype, {batches, heads, rows, p.value.channels()});
  if (line.rope > 0) c.key_rope = contiguous_view(dtype, {batches, heads, rows, line.rope});
  describe_stored(line.key, p, p.key, c.key);
  describe_stored(line.value, p, p.value, c.value);
  if (prefix == 0) return;
  c.prefix_key = contiguous_view(p.key.dtype, {1, heads, prefix, depth});
  c.prefix_value = contiguous_view(p.value.dtype, {1, heads, prefix, p.value.channels()});
  if (line.rope > 0) c.prefix_key_rope = contiguous_view(dtype, {1, heads, prefix, line.rope});
}

}  // namespace fusion_attention
