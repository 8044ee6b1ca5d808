// Every rejection of the memory of a call: what lies where, and what an output shares.
#include <algorithm>
#include <array>
#include <string>

#include "base/math.h"
#include "problem/check.h"
#include "problem/validate.h"

namespace fusion_attention {
namespace {

// Memory of one argument.
struct Memory {
  const char* argument;
  const std::byte* begin;
  std::int64_t bytes, alignment;  // a power of two
  const TensorView* view;         // null: every byte of it is in use
};

// All of a call: never more than query, key, value, output, its gradient, max, sum, overlay, bias, dropout
// bits, sink, scale and offset of results; and of a cache a table, four tensors, two scales and two offsets.
struct MemoryList {
  std::array<Memory, 22> item;  // not cleared: most calls use five
  std::size_t count = 0;

  void add(const char* argument, const TensorView& v) {
    item[count++] = {argument, static_cast<const std::byte*>(v.data), extent(argument, v),
                     greater(size_of(v.dtype), 1), &v};
  }
  void add(const char* argument, const void* data, std::int64_t bytes, std::int64_t alignment) {
    item[count++] = {argument, static_cast<const std::byte*>(data), bytes, alignment, nullptr};
  }
  const Memory* begin() const { return item.data(); }
  const Memory* end() const { return item.data() + count; }
};

// Elements from the first to past the last of what repeats every `pitch` elements.
std::int64_t width_in(const TensorView& v, std::int64_t pitch) {
  std::int64_t width = 1;
  for (std::size_t axis = 0; axis < 4; ++axis)
    if (v.shape[axis] > 1 && v.stride[axis] % pitch != 0) width += (v.shape[axis] - 1) * v.stride[axis];
  return width;
}

// Both repeat with some pitch and use different parts of it: the columns of a packed QKV buffer, say.
bool interleaved(const Memory& a, const Memory& b) {
  if (!a.view || !b.view || a.alignment != b.alignment || (b.begin - a.begin) % a.alignment != 0 ||
      a.view->dtype == Dtype::int4 || b.view->dtype == Dtype::int4)
    return false;
  const std::int64_t distance = (b.begin - a.begin) / a.alignment;
  for (const std::int64_t pitch : a.view->stride) {
    if (pitch <= 1) continue;
    const std::int64_t offset = distance % pitch + (distance % pitch < 0 ? pitch : 0);
    if (width_in(*a.view, pitch) <= offset && width_in(*b.view, pitch) <= pitch - offset) return true;
  }
  return false;
}

bool overlap(const Memory& a, const Memory& b) {
  return a.bytes > 0 && b.bytes > 0 && a.begin < b.begin + b.bytes && b.begin < a.begin + a.bytes &&
         !interleaved(a, b);
}

// Every axis steps over all that the axes inside it reach, so no two elements share an address. Layouts that
// are not nested in this way but distinct all the same have no use here.
bool distinct(const TensorView& v) {
  std::array<std::size_t, 4> axes{0, 1, 2, 3};
  std::sort(axes.begin(), axes.end(),
            [&](std::size_t a, std::size_t b) { return v.stride[a] < v.stride[b]; });
  std::int64_t reach = 0;
  for (const std::size_t axis : axes) {
    if (v.shape[axis] <= 1) continue;
    if (v.stride[axis] <= reach) return false;
    reach += (v.shape[axis] - 1) * v.stride[axis];
  }
  return true;
}

void add_statistics(const Problem& p, MemoryList& list) {
  const std::int64_t entries = p.query.batches() * p.query.heads() * p.query.rows() * p.statistics.copies;
  if (!p.statistics.max) return;
  list.add("statistics.max", p.statistics.max, entries * 4, 4);
  list.add("statistics.sum", p.statistics.sum, entries * 4, 4);
}

void add_scores(const Problem& p, MemoryList& list) {
  if (p.bias) list.add("bias", p.bias.data, p.bias.elements * size_of(p.bias.dtype), size_of(p.bias.dtype));
  if (p.dropout.bits) list.add("dropout.bits", p.dropout.bits, p.dropout.bytes, 1);
  if (p.sink) list.add("sink", p.sink.data, p.query.heads() * 4, 4);
  const OutputScaling& scaling = p.output_scaling;
  if (scaling) list.add("output_scaling.scale", scaling.scale, scaling.channels * 4, 4);
  if (scaling.offset) list.add("output_scaling.offset", scaling.offset, scaling.channels * 4, 4);
}

void add_cache(const Problem& p, MemoryList& list) {
  const Cache& c = p.cache;
  if (c.pages) list.add("pages", c.pages.table, c.pages.entries * 4, 4);
  if (c.has_prefix()) list.add("prefix_key", c.prefix_key), list.add("prefix_value", c.prefix_value);
  if (c.has_rope()) list.add("key_rope", c.key_rope);
  if (c.has_rope() && c.has_prefix()) list.add("prefix_key_rope", c.prefix_key_rope);
  if (c.key.scale.data) list.add("key.scale", c.key.scale);
  if (c.key.offset.data) list.add("key.offset", c.key.offset);
  if (c.value.scale.data) list.add("value.scale", c.value.scale);
  if (c.value.offset.data) list.add("value.offset", c.value.offset);
}

void add_score_gradients(const Problem& p, MemoryList& list) {
  if (p.bias.gradient) list.add("bias.gradient", p.bias.gradient, p.bias.elements * 4, 4);
  if (p.sink.gradient) list.add("sink.gradient", p.sink.gradient, p.query.heads() * 4, 4);
}

void check_pointer(const Memory& m) {
  if (m.bytes == 0) return;
  if (!m.begin) refuse(m.argument, "no memory", "a pointer to its elements");
  if (reinterpret_cast<std::uintptr_t>(m.begin) & static_cast<std::uintptr_t>(m.alignment - 1))
    refuse(m.argument, "a misaligned pointer", "one aligned to its element");
}

}  // namespace

void validate_memory(const Problem& p) {
  MemoryList inputs, outputs;
  inputs.add("query", p.query), inputs.add("key", p.key), inputs.add("value", p.value);
  if (p.overlay) inputs.add("overlay", p.overlay.data, overlay_extent(p), 1);
  add_scores(p, inputs);
  add_cache(p, inputs);
  if (p.pass == Pass::backward) {
    inputs.add("output", p.output), inputs.add("output_gradient", p.output_gradient);
    add_statistics(p, inputs);
    outputs.add("query_gradient", p.query_gradient);
    outputs.add("key_gradient", p.key_gradient);
    outputs.add("value_gradient", p.value_gradient);
    add_score_gradients(p, outputs);
    if (!p.statistics.max && !is_empty(p.query)) refuse("statistics", "none", "the forward's max and sum");
  } else {
    outputs.add("output", p.output);
    add_statistics(p, outputs);
  }
  for (const MemoryList* list : {&inputs, &outputs})
    for (const Memory& m : *list) check_pointer(m);
  for (const Memory& out : outputs) {
    if (out.view && !is_empty(*out.view) && !distinct(*out.view))
      refuse(out.argument, "strides that give two elements one address", "an output of distinct elements");
    for (const Memory& in : inputs)
      if (overlap(out, in))
        refuse(out.argument, std::string("memory shared with ") + in.argument, "memory of its own");
    for (const Memory* other = outputs.begin(); other != &out; ++other)
      if (overlap(out, *other))
        refuse(out.argument, std::string("memory shared with ") + other->argument, "memory of its own");
  }
}

}  // namespace fusion_attention
