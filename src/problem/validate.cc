// Every rejection of a Problem, each with the sentence the user reads. After it no kernel has a failing path;
// before it no pointer is followed.
#include "problem/validate.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "base/math.h"
#include "problem/check.h"

namespace fusion_attention {
namespace {

std::string shape_text(const TensorView& v) {
  std::string text = "[";
  for (std::size_t axis = 0; axis < 4; ++axis) text += (axis ? ", " : "") + std::to_string(v.shape[axis]);
  return text + "]";
}

}  // namespace

bool is_empty(const TensorView& v) {
  return std::find(v.shape.begin(), v.shape.end(), 0) != v.shape.end();
}

std::int64_t extent(const char* argument, const TensorView& v) {
  if (is_empty(v)) return 0;
  std::int64_t last = 0;
  for (std::size_t axis = 0; axis < 4; ++axis) {
    std::int64_t reach = 0;
    if (__builtin_mul_overflow(v.shape[axis] - 1, v.stride[axis], &reach) ||
        __builtin_add_overflow(last, reach, &last) || last > kMost / 8)
      refuse(argument, "strides that reach past the end of memory", "a tensor that fits an address space");
  }
  if (v.dtype == Dtype::int4) last |= 1;  // whole bytes
  return bytes_of(v.dtype, last + 1);
}

void check_view(const char* argument, const TensorView& v) {
  std::int64_t elements = 1;
  for (std::size_t axis = 0; axis < 4; ++axis) {
    if (v.shape[axis] < 0) refuse(argument, "shape " + shape_text(v), "sizes of at least 0");
    if (v.stride[axis] < 0)
      refuse(argument, "stride " + std::to_string(v.stride[axis]), "strides of at least 0");
    if (__builtin_mul_overflow(elements, std::max<std::int64_t>(v.shape[axis], 1), &elements) ||
        elements > kMost / 8)
      refuse(argument, "shape " + shape_text(v), "a product of sizes below 2^59");
  }
  extent(argument, v);
}

void check_shape(const char* argument, const TensorView& v, const std::array<std::int64_t, 4>& shape,
                 Dtype dtype) {
  check_view(argument, v);
  TensorView wanted;
  wanted.shape = shape;
  if (v.shape != shape) refuse(argument, "shape " + shape_text(v), shape_text(wanted));
  if (v.dtype != dtype)
    refuse(argument, std::string("dtype ") + name(v.dtype), std::string("query's, ") + name(dtype));
}

namespace {

// Of key and value. Those of a cache may be stored as something else, in pages, and without rope channels.
void check_keys(const Problem& p) {
  const TensorView &q = p.query, &k = p.key, &v = p.value;
  const bool cached = has_cache(p);
  check_view("key", k);
  check_view("key_rope", p.cache.key_rope);
  if (k.heads() < 0 || (k.heads() == 0) != (q.heads() == 0) || (k.heads() > 0 && q.heads() % k.heads() != 0))
    refuse("key", std::to_string(k.heads()) + " heads", "a divisor of query's " + std::to_string(q.heads()));
  check_shape("key", k,
              {p.cache.pages ? k.batches() : q.batches(), k.heads(), k.rows(),
               q.channels() - p.cache.key_rope.channels()},
              cached ? k.dtype : q.dtype);
  check_view("value", v);
  if (v.channels() == 0) refuse("value", "D = 0", "D of at least 1");
  check_shape("value", v, {k.batches(), k.heads(), k.rows(), v.channels()}, cached ? v.dtype : q.dtype);
  if (cached) check_cache(p);
}

void check_shapes(const Problem& p) {
  const TensorView &q = p.query, &k = p.key, &v = p.value;
  check_view("query", q);
  if (q.channels() == 0) refuse("query", "D = 0", "D of at least 1");
  check_keys(p);
  check_shape("output", p.output, {q.batches(), q.heads(), q.rows(), v.channels()},
              p.output_scaling         ? Dtype::int8
              : q.dtype == Dtype::int8 ? Dtype::float16
                                       : q.dtype);
  if (p.pass == Pass::forward) return;
  check_shape("output_gradient", p.output_gradient, p.output.shape, q.dtype);
  check_shape("query_gradient", p.query_gradient, q.shape, q.dtype);
  check_shape("key_gradient", p.key_gradient, k.shape, q.dtype);
  check_shape("value_gradient", p.value_gradient, v.shape, q.dtype);
}

void check_band(const Band& band) {
  if (band.block < 1 || band.block > Band::kFar) refuse("band.block", std::to_string(band.block), "1 … 2^40");
  if (band.prefix < 0 || band.prefix > Band::kFar)
    refuse("band.prefix", std::to_string(band.prefix), "0 … 2^40");
  if (band.lo < -Band::kFar || band.lo > Band::kFar || band.hi < -Band::kFar || band.hi > Band::kFar)
    refuse("band", std::to_string(band.lo) + ", " + std::to_string(band.hi), "ends within ±2^40");
  if (band.reach < -Band::kFar || band.reach > Band::kFar)
    refuse("band.reach", std::to_string(band.reach), "an end within ±2^40");
  if (band.prefix > 0 && band.lo != -Band::kFar)
    refuse("band.prefix", std::to_string(band.prefix) + " with a lower end", "a prefix only without one");
}

struct Range {
  std::int64_t batch, begin, end;
};

void check_disjoint(const char* what, std::vector<Range>& ranges) {
  const auto before = [](const Range& a, const Range& b) {
    return a.batch != b.batch ? a.batch < b.batch : a.begin < b.begin;
  };
  if (!std::is_sorted(ranges.begin(), ranges.end(), before)) std::sort(ranges.begin(), ranges.end(), before);
  for (std::size_t i = 1; i < ranges.size(); ++i)
    if (ranges[i].batch == ranges[i - 1].batch && ranges[i].begin < ranges[i - 1].end)
      refuse("sequences", std::string("two that share ") + what + " " + std::to_string(ranges[i].begin),
             std::string("each ") + what + " in at most one sequence");
}

void check_sequences(const Problem& p) {
  thread_local std::vector<Range> rows, keys;  // reused: validation runs at every call
  rows.clear();
  keys.clear();
  for (const Sequence& s : p.sequences) {
    if (s.batch < 0 || s.batch >= p.query.batches())
      refuse("sequences", "batch " + std::to_string(s.batch), "0 … " + std::to_string(p.query.batches() - 1));
    const auto inside = [](std::int64_t first, std::int64_t count, std::int64_t size) {
      return first >= 0 && count >= 0 && first <= size && count <= size - first;
    };
    if (!inside(s.row, s.rows, p.query.rows()))
      refuse("sequences", "rows " + std::to_string(s.row) + " + " + std::to_string(s.rows),
             "within query's " + std::to_string(p.query.rows()) + " rows");
    check_cached_keys(p, s);
    // Past 2^40 an end of ±2^40 would no longer mean "no end".
    if (s.row0 < 0 || s.row0 > Band::kFar - s.rows)
      refuse("sequences", "row0 " + std::to_string(s.row0), "rows at global positions 0 … 2^40");
    if (s.key0 < 0 || s.key0 > Band::kFar - s.keys)
      refuse("sequences", "key0 " + std::to_string(s.key0), "keys at global positions 0 … 2^40");
    check_band(s.band);
    if (s.rows > 0) rows.push_back({s.batch, s.row, s.row + s.rows});
    if (s.keys > 0) keys.push_back({s.batch, s.key, s.key + s.keys});
  }
  check_disjoint("row", rows);
  if (p.pass == Pass::backward) check_disjoint("key", keys);
}

void check_statistics(const Problem& p) {
  const Statistics& s = p.statistics;
  if (s.copies < 1) refuse("statistics.copies", std::to_string(s.copies), "at least 1");
  std::int64_t entries = 0;  // the other three are a product that check_view has seen
  if (__builtin_mul_overflow(p.query.batches() * p.query.heads() * p.query.rows(), s.copies, &entries) ||
      entries > kMost / 8)
    refuse("statistics.copies", std::to_string(s.copies), "statistics that fit an address space");
  if (!s.max != !s.sum) refuse("statistics", "one of max and sum", "both, or none in the forward");
}

void check_results(const Problem& p) {
  const OutputScaling& scaling = p.output_scaling;
  if (p.half_scores && (p.pass == Pass::backward || p.query.dtype != Dtype::float16))
    refuse("half_scores", std::string("a ") + (p.pass == Pass::forward ? name(p.query.dtype) : "backward"),
           "a forward of fp16");
  if (!scaling) {
    if (scaling.offset) refuse("output_scaling.offset", "an offset without a scale", "both, or none");
    return;
  }
  if (p.pass == Pass::backward) refuse("output_scaling", "a backward", "a forward");
  if (scaling.channels != 1 && scaling.channels != p.query.heads() * p.value.channels())
    refuse("output_scaling.channels", std::to_string(scaling.channels), "1 or N * Dv");
}

}  // namespace

std::int64_t overlay_extent(const Problem& p) {
  std::array<std::int64_t, 4> sizes{0, p.query.heads(), 0, 0};
  for (const Sequence& s : p.sequences) {
    sizes[0] = std::max(sizes[0], s.batch + 1);
    sizes[2] = std::max(sizes[2], s.rows);
    sizes[3] = std::max(sizes[3], s.keys);
  }
  std::int64_t last = 0;
  for (std::size_t axis = 0; axis < 4; ++axis) {
    const std::int64_t stride = p.overlay.stride[axis];
    if (stride < 0) refuse("overlay", "stride " + std::to_string(stride), "strides of at least 0");
    std::int64_t reach = 0;
    if (__builtin_mul_overflow(std::max<std::int64_t>(sizes[axis] - 1, 0), stride, &reach) ||
        __builtin_add_overflow(last, reach, &last) || last > kMost / 8)
      refuse("overlay", "strides that reach past the end of memory", "a mask that fits an address space");
  }
  return std::find(sizes.begin(), sizes.end(), 0) != sizes.end() ? 0 : last + 1;
}

void validate(const Problem& p) {
  if (!std::isfinite(p.scale)) refuse("scale", std::to_string(p.scale), "a finite number");
  check_integer(p);
  check_shapes(p);
  check_sequences(p);
  check_scales(p);
  check_statistics(p);
  overlay_extent(p);
  check_scores(p);
  check_results(p);
}

}  // namespace fusion_attention
