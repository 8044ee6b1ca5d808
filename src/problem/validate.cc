// Every rejection of a Problem, each with the sentence the user reads. After it no kernel has a failing path;
// before it no pointer is followed.
#include "problem/validate.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "fusion_attention/error.h"

namespace fusion_attention {
namespace {

constexpr std::int64_t kMost = std::int64_t{1} << 62;

std::string shape_text(const TensorView& v) {
  std::string text = "[";
  for (std::size_t axis = 0; axis < 4; ++axis) text += (axis ? ", " : "") + std::to_string(v.shape[axis]);
  return text + "]";
}

[[noreturn]] void refuse(const std::string& argument, const std::string& given, const std::string& allowed) {
  throw Error(ErrorKind::value, argument, given, allowed);
}

bool empty(const TensorView& v) {
  return std::find(v.shape.begin(), v.shape.end(), 0) != v.shape.end();
}

// Bytes from the first to past the last element; refuses what no address space holds.
std::int64_t extent(const char* argument, const TensorView& v) {
  if (empty(v)) return 0;
  std::int64_t last = 0;
  for (std::size_t axis = 0; axis < 4; ++axis) {
    std::int64_t reach = 0;
    if (__builtin_mul_overflow(v.shape[axis] - 1, v.stride[axis], &reach) ||
        __builtin_add_overflow(last, reach, &last) || last > kMost / 8)
      refuse(argument, "strides that reach past the end of memory", "a tensor that fits an address space");
  }
  return (last + 1) * size_of(v.dtype);
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

void check_shapes(const Problem& p) {
  const TensorView &q = p.query, &k = p.key, &v = p.value;
  check_view("query", q);
  if (q.channels() == 0) refuse("query", "D = 0", "D of at least 1");
  check_view("key", k);
  if (k.heads() < 0 || (k.heads() == 0) != (q.heads() == 0) || (k.heads() > 0 && q.heads() % k.heads() != 0))
    refuse("key", std::to_string(k.heads()) + " heads", "a divisor of query's " + std::to_string(q.heads()));
  check_shape("key", k, {q.batches(), k.heads(), k.rows(), q.channels()}, q.dtype);
  check_view("value", v);
  if (v.channels() == 0) refuse("value", "D = 0", "D of at least 1");
  check_shape("value", v, {k.batches(), k.heads(), k.rows(), v.channels()}, q.dtype);
  check_shape("output", p.output, {q.batches(), q.heads(), q.rows(), v.channels()}, q.dtype);
  if (p.pass == Pass::forward) return;
  check_shape("output_gradient", p.output_gradient, p.output.shape, q.dtype);
  check_shape("query_gradient", p.query_gradient, q.shape, q.dtype);
  check_shape("key_gradient", p.key_gradient, k.shape, q.dtype);
  check_shape("value_gradient", p.value_gradient, v.shape, q.dtype);
}

void check_band(const Band& band) {
  if (band.block < 1) refuse("band.block", std::to_string(band.block), "at least 1");
  if (band.prefix < 0) refuse("band.prefix", std::to_string(band.prefix), "at least 0");
  if (band.lo < -Band::kFar || band.lo > Band::kFar || band.hi < -Band::kFar || band.hi > Band::kFar)
    refuse("band", std::to_string(band.lo) + ", " + std::to_string(band.hi), "ends within ±2^40");
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
    if (!inside(s.key, s.keys, p.key.rows()))
      refuse("sequences", "keys " + std::to_string(s.key) + " + " + std::to_string(s.keys),
             "within key's " + std::to_string(p.key.rows()) + " rows");
    if (s.row0 < 0 || s.key0 < 0 || s.row0 > Band::kFar || s.key0 > Band::kFar)
      refuse("sequences", "global position " + std::to_string(std::min(s.row0, s.key0)), "0 … 2^40");
    check_band(s.band);
    if (s.rows > 0) rows.push_back({s.batch, s.row, s.row + s.rows});
    if (s.keys > 0) keys.push_back({s.batch, s.key, s.key + s.keys});
  }
  check_disjoint("row", rows);
  if (p.pass == Pass::backward) check_disjoint("key", keys);
}

struct Memory {
  const char* argument;
  const TensorView* view;
};

// Both are rows of one interleaved buffer (a packed QKV, say) and use different columns of it.
bool interleaved(const TensorView& a, const TensorView& b) {
  const std::int64_t pitch = a.stride[2];
  if (pitch == 0 || b.stride[2] != pitch || a.batches() != b.batches() ||
      (a.batches() > 1 && a.stride[0] != b.stride[0]))
    return false;
  if (a.batches() > 1 && a.stride[0] % pitch != 0) return false;
  const auto width = [](const TensorView& v) {
    return (v.heads() - 1) * v.stride[1] + (v.channels() - 1) * v.stride[3] + 1;
  };
  const std::int64_t size = size_of(a.dtype);
  const std::int64_t distance = static_cast<const std::byte*>(b.data) - static_cast<const std::byte*>(a.data);
  const std::int64_t offset = ((distance / size) % pitch + pitch) % pitch;
  return distance % size == 0 && width(a) <= offset && offset + width(b) <= pitch;
}

bool overlap(const TensorView& a, const TensorView& b) {
  if (empty(a) || empty(b)) return false;
  const auto* first = static_cast<const std::byte*>(a.data);
  const auto* second = static_cast<const std::byte*>(b.data);
  if (first + extent("", a) <= second || second + extent("", b) <= first) return false;
  return !interleaved(a, b);
}

// An output whose elements share an address would be written twice.
bool broadcast(const TensorView& v) {
  for (std::size_t axis = 0; axis < 4; ++axis)
    if (v.shape[axis] > 1 && v.stride[axis] == 0) return true;
  return false;
}

}  // namespace

void validate(const Problem& p) {
  if (!std::isfinite(p.scale)) refuse("scale", std::to_string(p.scale), "a finite number");
  check_shapes(p);
  check_sequences(p);
  if (p.statistics.copies < 1) refuse("statistics.copies", std::to_string(p.statistics.copies), "at least 1");
  if (!p.statistics.max != !p.statistics.sum)
    refuse("statistics", "one of max and sum", "both, or none in the forward");
  for (std::size_t axis = 0; axis < 4; ++axis)
    if (p.overlay.stride[axis] < 0)
      refuse("overlay", "stride " + std::to_string(p.overlay.stride[axis]), "strides of at least 0");
}

void validate_memory(const Problem& p) {
  const bool backward = p.pass == Pass::backward;
  std::vector<Memory> inputs = {{"query", &p.query}, {"key", &p.key}, {"value", &p.value}};
  std::vector<Memory> outputs;
  if (backward) {
    inputs.insert(inputs.end(), {{"output", &p.output}, {"output_gradient", &p.output_gradient}});
    outputs = {{"query_gradient", &p.query_gradient},
               {"key_gradient", &p.key_gradient},
               {"value_gradient", &p.value_gradient}};
    if (!p.statistics.max && !empty(p.query)) refuse("statistics", "none", "the forward's max and sum");
  } else {
    outputs = {{"output", &p.output}};
  }
  for (const auto* list : {&inputs, &outputs})
    for (const Memory& m : *list) {
      if (empty(*m.view)) continue;
      if (!m.view->data) refuse(m.argument, "no memory", "a pointer to its elements");
      if (reinterpret_cast<std::uintptr_t>(m.view->data) %
              static_cast<std::uintptr_t>(size_of(m.view->dtype)) !=
          0)
        refuse(m.argument, "a misaligned pointer", "one aligned to its element");
    }
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    if (broadcast(*outputs[i].view))
      refuse(outputs[i].argument, "stride 0", "an output of distinct elements");
    for (const Memory& in : inputs)
      if (overlap(*outputs[i].view, *in.view))
        refuse(outputs[i].argument, std::string("memory shared with ") + in.argument, "memory of its own");
    for (std::size_t j = 0; j < i; ++j)
      if (overlap(*outputs[i].view, *outputs[j].view))
        refuse(outputs[i].argument, std::string("memory shared with ") + outputs[j].argument,
               "memory of its own");
  }
}

}  // namespace fusion_attention
