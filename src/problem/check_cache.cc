// Every rejection of a cache: shapes and lengths at any time, entries of the table when they are read.
#include <algorithm>
#include <array>

#include "base/math.h"
#include "problem/check.h"
#include "problem/reach.h"
#include "problem/validate.h"

namespace fusion_attention {
namespace {

void check_stored(const char* argument, const TensorView& v, Dtype query) {
  if (v.dtype != query && !is_integer(v.dtype))
    refuse(argument, std::string("dtype ") + name(v.dtype), std::string(name(query)) + ", int8 or int4");
  if (!is_integer(v.dtype)) return;
  if (v.channels() > 1 && v.stride[3] != 1)
    refuse(argument, "channels " + std::to_string(v.stride[3]) + " apart", "channels side by side");
  if (v.dtype == Dtype::int8) return;
  if (v.channels() % 2 != 0)
    refuse(argument, std::to_string(v.channels()) + " channels of int4", "an even number");
  for (std::size_t axis = 0; axis < 3; ++axis)
    if (v.shape[axis] > 1 && v.stride[axis] % 2 != 0)
      refuse(argument, "stride " + std::to_string(v.stride[axis]) + " of int4", "even strides");
}

void check_numbers(const std::string& argument, const TensorView& numbers, std::array<std::int64_t, 4> shape,
                   const TensorView& of) {
  if (!numbers.data) return;
  if (!is_integer(of.dtype))
    refuse(argument, std::string("one of ") + name(of.dtype), "one of int8 or int4 only");
  if (is_integer(numbers.dtype))
    refuse(argument, std::string("dtype ") + name(numbers.dtype), "fp32, fp16 or bf16");
  check_shape(argument.c_str(), numbers, shape, numbers.dtype);
  if (numbers.channels() > 1 && numbers.stride[3] > 1)
    refuse(argument, "channels " + std::to_string(numbers.stride[3]) + " apart",
           "channels side by side, or one number for all");
}

void check_scaling(const std::string& argument, const Scaling& scaling, const TensorView& of,
                   const Problem& p) {
  if (!scaling.scale.data && !scaling.offset.data) return;
  std::array<std::int64_t, 4> shape = of.shape;
  if (scaling.by_position) {
    shape[0] = p.query.batches();
    shape[2] = std::max(most_own_keys(p), (scaling.scale.data ? scaling.scale : scaling.offset).rows());
  }
  check_numbers(argument + ".scale", scaling.scale, shape, of);
  check_numbers(argument + ".offset", scaling.offset, shape, of);
  if (scaling.scale.data && scaling.offset.data && scaling.scale.dtype != scaling.offset.dtype)
    refuse(argument + ".offset", std::string("dtype ") + name(scaling.offset.dtype),
           std::string("scale's, ") + name(scaling.scale.dtype));
  for (const TensorView* numbers : {&scaling.scale, &scaling.offset})
    if (p.cache.has_prefix() && numbers->data && numbers->rows() > 1 && numbers->stride[2] != 0)
      refuse(argument, "scales per row, and a prefix", "scales that are the same for every row");
}

void check_prefix(const Problem& p) {
  const Cache& c = p.cache;
  const std::int64_t heads = p.key.heads(), rows = c.prefix_key.rows();
  check_shape("prefix_key", c.prefix_key, {1, heads, rows, p.key.channels()}, p.key.dtype);
  check_stored("prefix_key", c.prefix_key, p.query.dtype);
  check_shape("prefix_value", c.prefix_value, {1, heads, rows, p.value.channels()}, p.value.dtype);
  check_stored("prefix_value", c.prefix_value, p.query.dtype);
  if (c.has_rope())
    check_shape("prefix_key_rope", c.prefix_key_rope, {1, heads, rows, c.key_rope.channels()}, p.query.dtype);
}

// Keys behind the prefix: rows of key, or of pages whose entries the table has.
void check_keys(const Problem& p, const Sequence& s) {
  const std::int64_t own = s.keys - s.prefix, size = p.key.rows();
  if (!p.cache.pages) {
    if (s.key < 0 || s.key > size || own > size - s.key)
      refuse("sequences", "keys " + std::to_string(s.key) + " + " + std::to_string(own),
             "within key's " + std::to_string(size) + " rows");
    if (s.page != 0) refuse("sequences", "page " + std::to_string(s.page), "0 where there are no pages");
    return;
  }
  if (s.key != 0) refuse("sequences", "key " + std::to_string(s.key), "0 where there are pages");
  const std::int64_t pages = own == 0 ? 0 : (own - 1) / size + 1, entries = p.cache.pages.entries;
  if (s.page < 0 || s.page > entries || pages > entries - s.page)
    refuse("pages", "entries " + std::to_string(s.page) + " + " + std::to_string(pages),
           "within the table's " + std::to_string(entries));
}

}  // namespace

bool has_cache(const Problem& p) {
  const Cache& c = p.cache;
  return c.pages || c.pages.entries != 0 || c.has_rope() || c.has_prefix() || c.prefix_value.rows() != 0 ||
         c.prefix_key_rope.rows() != 0 || c.key.scale.data || c.key.offset.data || c.value.scale.data ||
         c.value.offset.data ||
         (p.query.dtype != Dtype::int8 && (is_integer(p.key.dtype) || is_integer(p.value.dtype)));
}

void check_cache(const Problem& p) {
  const Cache& c = p.cache;
  if (p.pass == Pass::backward) refuse("cache", "a backward", "a forward");
  check_stored("key", p.key, p.query.dtype);
  check_stored("value", p.value, p.query.dtype);
  if (!c.pages && c.pages.entries != 0)
    refuse("pages", std::to_string(c.pages.entries) + " entries without a table", "both, or none");
  if (!c.has_prefix() && c.prefix_value.rows() != 0)
    refuse("prefix_value", "rows without a prefix_key", "both, or none");
  if (c.prefix_key_rope.rows() != 0 && !(c.has_prefix() && c.has_rope()))
    refuse("prefix_key_rope", "rows without a prefix_key and a key_rope", "all three, or neither");
  if (c.pages.entries < 0 || c.pages.entries > kMost / 8)
    refuse("pages", std::to_string(c.pages.entries) + " entries", "0 … 2^59");
  if (c.pages && p.key.rows() == 0) refuse("key", "pages of 0 rows", "pages of at least 1");
  if (c.has_rope())
    check_shape("key_rope", c.key_rope, {p.key.batches(), p.key.heads(), p.key.rows(), c.key_rope.channels()},
                p.query.dtype);
  if (c.has_prefix()) check_prefix(p);
}

void check_cached_keys(const Problem& p, const Sequence& s) {
  const std::int64_t prefix = p.cache.prefix_key.rows();
  if (s.keys < 0) refuse("sequences", std::to_string(s.keys) + " keys", "at least 0");
  if (s.prefix < 0 || s.prefix > prefix || s.prefix > s.keys)
    refuse("sequences", "a prefix of " + std::to_string(s.prefix),
           "0 … " + std::to_string(std::min(prefix, s.keys)));
  check_keys(p, s);
}

void check_scales(const Problem& p) {
  check_scaling("key", p.cache.key, p.key, p);
  check_scaling("value", p.cache.value, p.value, p);
}

void append_pages(const Problem& p, const Sequence& s, std::vector<std::int32_t>& out) {
  const std::int64_t pages = p.key.batches();
  const Interval reached = reached_pages(s, p.key.rows());
  for (std::int64_t page = 0; page < reached.end; ++page) {
    // Atomic, so that no compiler reads it a second time after the check.
    const std::int32_t entry =
        page < reached.begin ? 0 : __atomic_load_n(p.cache.pages.table + s.page + page, __ATOMIC_RELAXED);
    if (entry < 0 || entry >= pages)
      refuse("pages", "page " + std::to_string(entry) + " at entry " + std::to_string(s.page + page),
             "0 … " + std::to_string(pages - 1));
    out.push_back(entry);
  }
}

}  // namespace fusion_attention
