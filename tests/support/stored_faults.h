// What can be wrong with the tensors of a cache: pools, prefixes, scales. Continues support/faults.h.
#pragma once

#include "support/faults.h"

namespace fusion_attention::testing {

inline bool has_elements(const TensorView& v) {
  return v.batches() > 0 && v.heads() > 0 && v.rows() > 0 && v.channels() > 0;
}
inline void move(TensorView& v, std::int64_t bytes) {
  v.data = static_cast<std::byte*>(v.data) + bytes;
}

struct Named {
  const char* name;
  TensorView* view;
};

// A fault of one of the tensors that a call has, drawn.
template <class Which, class Make>
void add_view_fault(std::vector<Fault>& all, const char* what, Which which, Make make) {
  all.push_back({what, [which, make](Broken& b) -> const char* {
                   const std::vector<Named> views = which(b);
                   if (views.empty()) return nullptr;
                   const Named one = b.one_of(views);
                   return make(b, *one.view) ? one.name : nullptr;
                 }});
}

inline std::vector<Named> pools(Broken& b) {
  std::vector<Named> all = {{"key", &b.p.key}, {"value", &b.p.value}};
  if (b.p.cache.has_rope()) all.push_back({"key_rope", &b.p.cache.key_rope});
  return all;
}

inline std::vector<Named> prefixes(Broken& b) {
  Cache& c = b.p.cache;
  if (!c.has_prefix()) return {};
  std::vector<Named> all = {{"prefix_key", &c.prefix_key}, {"prefix_value", &c.prefix_value}};
  if (c.has_rope()) all.push_back({"prefix_key_rope", &c.prefix_key_rope});
  return all;
}

inline std::vector<Named> scales(Broken& b) {
  Cache& c = b.p.cache;
  std::vector<Named> all;
  for (const Named& one : {Named{"key.scale", &c.key.scale}, Named{"key.offset", &c.key.offset},
                           Named{"value.scale", &c.value.scale}, Named{"value.offset", &c.value.offset}})
    if (one.view->data) all.push_back(one);
  return all;
}

inline std::vector<Named> tensors(Broken& b) {
  std::vector<Named> all = pools(b);
  for (const auto& more : {prefixes(b), scales(b)}) all.insert(all.end(), more.begin(), more.end());
  return all;
}

// Of any tensor: what the numbers of its view say of memory.
inline void add_views(std::vector<Fault>& all) {
  add_view_fault(all, "strides that overflow", tensors, [](Broken& b, TensorView& v) {
    const int axis = b.wide_axis(v);
    if (axis < 0 || !has_elements(v)) return false;
    const auto far = b.draw.pick({kMostNumber - 1, std::int64_t{1} << 62, std::int64_t{1} << 60});
    v.stride[static_cast<std::size_t>(axis)] = far;
    return true;
  });
  add_view_fault(all, "a stride below 0", tensors, [](Broken& b, TensorView& v) {
    v.stride[b.draw.number() % 4] = b.draw.pick({std::int64_t{-1}, std::int64_t{-2}, kLeastNumber});
    return true;
  });
  add_view_fault(all, "a size that is none", tensors, [](Broken& b, TensorView& v) {
    // Not the rows and channels of the key, which say what all others must be.
    const std::size_t axis = b.draw.number() % 2;
    v.shape[axis] = b.draw.pick({std::int64_t{-1}, kLeastNumber, kMostNumber, std::int64_t{1} << 62});
    return true;
  });
  add_view_fault(
      all, "no memory",
      [](Broken& b) {
        auto views = pools(b);
        for (const Named& one : prefixes(b)) views.push_back(one);
        return views;
      },
      [](Broken&, TensorView& v) {
        v.data = nullptr;
        return has_elements(v);
      });
  add_view_fault(all, "an odd address", tensors, [](Broken&, TensorView& v) {
    move(v, 1);
    return !is_integer(v.dtype) && has_elements(v);
  });
  all.push_back({"an output in what is read", [](Broken& b) -> const char* {
                   std::vector<const void*> inputs;
                   for (const Named& one : tensors(b))
                     if (has_elements(*one.view)) inputs.push_back(one.view->data);
                   if (b.p.cache.pages.entries > 0) inputs.push_back(b.table);
                   if (inputs.empty() || !has_elements(b.p.output)) return nullptr;
                   b.p.output.data = const_cast<void*>(b.one_of(inputs));
                   return "output";
                 }});
}

inline void add_pools(std::vector<Fault>& all) {
  const auto integers = [](Broken& b) {
    std::vector<Named> stored;
    for (const Named& one : pools(b))
      if (is_integer(one.view->dtype)) stored.push_back(one);
    return stored;
  };
  const auto nibbles = [](Broken& b) {
    std::vector<Named> stored;
    for (const Named& one : pools(b))
      if (one.view->dtype == Dtype::int4) stored.push_back(one);
    return stored;
  };
  add_view_fault(all, "another dtype", pools, [](Broken& b, TensorView& v) {
    v.dtype = b.p.query.dtype == Dtype::float32 ? Dtype::float16 : Dtype::float32;
    return true;
  });
  add_view_fault(all, "integers apart", integers, [](Broken&, TensorView& v) {
    v.stride[3] = 2;
    return v.channels() > 1;
  });
  add_view_fault(all, "int4 rows that begin in the middle of a byte", nibbles, [](Broken& b, TensorView& v) {
    const int axis = b.wide_axis(v);
    if (axis >= 0) v.stride[static_cast<std::size_t>(axis)] += 1;
    return axis >= 0;
  });
  add_view_fault(all, "int4 of odd channels", nibbles, [](Broken& b, TensorView& v) {
    v.shape[3] -= 1;
    (&v == &b.p.key ? b.p.query : b.p.output).shape[3] -= 1;
    return true;
  });
  all.push_back({"pages of 0 rows", [](Broken& b) -> const char* {
                   if (!b.table) return nullptr;
                   b.p.key.shape[2] = b.p.value.shape[2] = b.p.cache.key_rope.shape[2] = 0;
                   return "key";
                 }});
  // Of the key's own sizes the others follow: it is they who differ.
  for (const std::size_t axis : {std::size_t{0}, std::size_t{1}, std::size_t{2}})
    for (const std::int64_t by : {std::int64_t{-1}, std::int64_t{1}})
      add_view_fault(
          all, std::array{"other pages", "other heads", "other rows"}[axis],
          [](Broken& b) {
            auto views = pools(b);
            views.erase(views.begin());
            return views;
          },
          [axis, by](Broken&, TensorView& v) {
            v.shape[axis] += by;
            return true;
          });
  all.push_back({"a backward", [](Broken& b) -> const char* {
                   b.p.pass = Pass::backward;
                   const bool cache = b.table || b.p.cache.has_prefix() || b.p.cache.has_rope() ||
                                      is_integer(b.p.key.dtype) || is_integer(b.p.value.dtype);
                   return cache ? "cache" : nullptr;
                 }});
}

inline void add_prefixes(std::vector<Fault>& all) {
  add_view_fault(all, "a prefix of another dtype", prefixes, [](Broken& b, TensorView& v) {
    v.dtype = v.dtype == Dtype::int8 ? b.p.query.dtype : Dtype::int8;
    return true;
  });
  add_view_fault(all, "a prefix per batch entry", prefixes, [](Broken&, TensorView& v) {
    v.shape[0] = 2;
    return true;
  });
  const auto add = [&](const char* what, auto make) {
    all.push_back({what, [make](Broken& b) -> const char* {
                     return b.p.cache.has_prefix() ? make(b, b.p.cache) : nullptr;
                   }});
  };
  add("a value prefix of other rows", [](Broken& b, Cache& c) {
    c.prefix_value.shape[2] += b.draw.one_in(2) ? 1 : -1;
    return "prefix_value";
  });
  add("a value prefix alone", [](Broken&, Cache& c) {
    c.prefix_key = {};
    return "prefix_value";
  });
  add("a prefix without its rope channels", [](Broken&, Cache& c) -> const char* {
    c.prefix_key_rope = {};
    return c.has_rope() ? "prefix_key_rope" : nullptr;
  });
  add("rope channels of a prefix whose keys have none", [](Broken&, Cache& c) -> const char* {
    if (c.has_rope()) return nullptr;
    c.prefix_key_rope = c.prefix_key;
    return "prefix_key_rope";
  });
  add("scales per row and a prefix", [](Broken& b, Cache&) -> const char* {
    for (const Named& one : scales(b)) {
      if (one.view->rows() < 2) continue;
      one.view->stride[2] = 1;
      return one.name[0] == 'k' ? "key" : "value";
    }
    return nullptr;
  });
}

inline void add_scales(std::vector<Fault>& all) {
  add_view_fault(all, "integers as scales", scales, [](Broken& b, TensorView& v) {
    v.dtype = b.draw.pick({Dtype::int8, Dtype::int4});
    return true;
  });
  add_view_fault(all, "scales apart", scales, [](Broken&, TensorView& v) {
    v.stride[3] = 2;
    return v.channels() > 1;
  });
  for (const std::size_t axis : {std::size_t{0}, std::size_t{1}, std::size_t{3}})
    add_view_fault(all, "scales of another size", scales, [axis](Broken& b, TensorView& v) {
      v.shape[axis] += b.draw.one_in(2) ? 1 : -1;
      return true;
    });
  const auto add = [&](const char* what, auto make) {
    all.push_back({what, [make](Broken& b) -> const char* {
                     const bool key = b.draw.one_in(2);
                     Scaling& scaling = key ? b.p.cache.key : b.p.cache.value;
                     const TensorView& of = key ? b.p.key : b.p.value;
                     if (!is_integer(of.dtype)) return nullptr;
                     const char* part = make(b, scaling, of);
                     if (!part) return nullptr;
                     if (*part == 's') return key ? "key.scale" : "value.scale";
                     return key ? "key.offset" : "value.offset";
                   }});
  };
  add("fewer scales than keys", [](Broken& b, Scaling& scaling, const TensorView&) -> const char* {
    std::int64_t most = 0;
    for (const Sequence& s : b.p.sequences) most = std::max(most, s.keys - s.prefix);
    if (most == 0 || !scaling.by_position) return nullptr;
    scaling.scale.shape[2] = scaling.offset.shape[2] = most - 1;
    return scaling.scale.data ? "scale" : scaling.offset.data ? "offset" : nullptr;
  });
  add("scales of pages for positions", [](Broken& b, Scaling& scaling, const TensorView& of) -> const char* {
    if (scaling.by_position || of.batches() == b.p.query.batches()) return nullptr;
    scaling.by_position = true;
    return scaling.scale.data ? "scale" : scaling.offset.data ? "offset" : nullptr;
  });
  add("scales of positions for pages", [](Broken&, Scaling& scaling, const TensorView& of) -> const char* {
    const TensorView& numbers = scaling.scale.data ? scaling.scale : scaling.offset;
    if (!scaling.by_position || !numbers.data || numbers.shape == of.shape) return nullptr;
    scaling.by_position = false;
    return scaling.scale.data ? "scale" : "offset";
  });
  add("an offset of another dtype", [](Broken&, Scaling& scaling, const TensorView&) -> const char* {
    if (!scaling.scale.data || !scaling.offset.data) return nullptr;
    scaling.offset.dtype = scaling.scale.dtype == Dtype::float32 ? Dtype::float16 : Dtype::float32;
    return "offset";
  });
  all.push_back({"scales of what is no integer", [](Broken& b) -> const char* {
                   if (is_integer(b.p.key.dtype) || !has_elements(b.p.query)) return nullptr;
                   b.p.cache.key.scale = b.p.query;
                   return "key.scale";
                 }});
}

inline std::vector<Fault> all_faults() {
  std::vector<Fault> all;
  add_entries(all), add_lengths(all), add_tables(all);
  add_views(all), add_pools(all), add_prefixes(all), add_scales(all);
  return all;
}

}  // namespace fusion_attention::testing
