// What can be wrong with a call on a cache: tables, lengths, pools, prefixes and scales, broken one at a
// time.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "support/guarded.h"
#include "support/random_problem.h"

namespace fusion_attention::testing {

inline constexpr std::int64_t kMostNumber = std::numeric_limits<std::int64_t>::max(),
                              kLeastNumber = std::numeric_limits<std::int64_t>::min();

// A copy of a right call, with a table of its own that ends at a guard page.
class Broken {
 public:
  Broken(const Problem& right, Draw& draw)
      : p(right), draw(draw), memory_(static_cast<std::size_t>(right.cache.pages.entries) * 4) {
    const Pages& pages = right.cache.pages;
    if (!pages) return;
    const auto bytes = static_cast<std::size_t>(pages.entries) * 4;
    table = memory_.tail<std::int32_t>(bytes);
    std::memcpy(table, pages.table, bytes);
    p.cache.pages.table = table;
  }

  // One of the sequences that are so; null without any.
  template <class Is>
  Sequence* some(Is is) {
    std::vector<Sequence*> all;
    for (Sequence& s : p.sequences)
      if (is(s)) all.push_back(&s);
    return all.empty() ? nullptr : one_of(all);
  }
  Sequence* some() {
    return some([](const Sequence&) { return true; });
  }
  template <class T>
  T one_of(const std::vector<T>& all) {
    return all[draw.number() % all.size()];
  }
  // An axis, of the first three, of more than one entry; −1 without any.
  int wide_axis(const TensorView& v) {
    std::vector<int> all;
    for (int axis = 0; axis < 3; ++axis)
      if (v.shape[static_cast<std::size_t>(axis)] > 1) all.push_back(axis);
    return all.empty() ? -1 : one_of(all);
  }

  Problem p;
  Draw& draw;
  std::int32_t* table = nullptr;

 private:
  Guarded memory_;
};

// Breaks a call and gives the argument that the refusal names; null where there is nothing to break so.
struct Fault {
  std::string what;
  std::function<const char*(Broken&)> make;
};

// Those of its pages, from Sequence::page on, in which some row sees a key: row by row.
inline std::vector<std::int64_t> seen_pages(const Problem& p, const Sequence& s) {
  const std::int64_t size = p.key.rows(), own = s.keys - s.prefix;
  std::vector<bool> seen(static_cast<std::size_t>(own == 0 ? 0 : (own - 1) / size + 1));
  for (std::int64_t i = 0; i < s.rows; ++i) {
    const Interval keys = s.band.row(s.row0 + i, s.key0 + s.keys);
    for (std::int64_t j = std::max(keys.begin - s.key0, s.prefix); j < keys.end - s.key0; ++j)
      seen[static_cast<std::size_t>((j - s.prefix) / size)] = true;
  }
  std::vector<std::int64_t> pages;
  for (std::size_t page = 0; page < seen.size(); ++page)
    if (seen[page]) pages.push_back(static_cast<std::int64_t>(page));
  return pages;
}

inline void add_entries(std::vector<Fault>& all) {
  const std::pair<const char*, std::function<std::int64_t(std::int64_t, Draw&)>> values[] = {
      {"-1", [](std::int64_t, Draw&) { return -1; }},
      {"-2^31", [](std::int64_t, Draw&) { return std::numeric_limits<std::int32_t>::min(); }},
      {"below 0", [](std::int64_t, Draw& draw) { return -draw.between(2, 1 << 30); }},
      {"as many as there are pages", [](std::int64_t pages, Draw&) { return pages; }},
      {"beyond the pages", [](std::int64_t pages, Draw& draw) { return pages + draw.between(1, 1 << 30); }},
      {"2^31 - 1", [](std::int64_t, Draw&) { return std::numeric_limits<std::int32_t>::max(); }},
  };
  for (const char* place : {"first", "middle", "last"})
    for (const auto& [name, value] : values)
      all.push_back({std::string(place) + " entry " + name, [place, value](Broken& b) -> const char* {
                       if (!b.table) return nullptr;
                       const Sequence* s =
                           b.some([&](const Sequence& one) { return !seen_pages(b.p, one).empty(); });
                       if (!s) return nullptr;
                       const auto seen = seen_pages(b.p, *s);
                       const std::int64_t page = *place == 'f'   ? seen.front()
                                                 : *place == 'l' ? seen.back()
                                                                 : seen[seen.size() / 2];
                       b.table[s->page + page] = static_cast<std::int32_t>(value(b.p.key.batches(), b.draw));
                       return "pages";
                     }});
}

inline std::int64_t page_count(const Broken& b, const Sequence& s) {
  return (s.keys - s.prefix + b.p.key.rows() - 1) / b.p.key.rows();
}

inline void add_lengths(std::vector<Fault>& all) {
  const auto place = [](const Broken& b) { return b.table ? "pages" : "sequences"; };
  const auto add = [&](const char* what, auto make) {
    all.push_back({what, [make](Broken& b) -> const char* {
                     Sequence* s = b.some();
                     return s ? make(b, *s) : nullptr;
                   }});
  };
  add("keys below 0", [](Broken& b, Sequence& s) {
    s.keys = b.draw.pick({std::int64_t{-1}, kLeastNumber, -b.draw.between(2, 1 << 30)});
    return "sequences";
  });
  add("one key more than there is room for", [=](Broken& b, Sequence& s) {
    const std::int64_t rows = b.p.key.rows();
    s.keys = s.prefix + 1 + (b.table ? (b.p.cache.pages.entries - s.page) * rows : rows - s.key);
    return place(b);
  });
  add("keys without end", [=](Broken& b, Sequence& s) {
    s.keys = b.draw.pick({kMostNumber, std::int64_t{1} << 62, Band::kFar});
    return place(b);
  });
  add("a page that is no entry", [=](Broken& b, Sequence& s) {
    s.page = b.draw.pick({std::int64_t{-1}, kLeastNumber, b.p.cache.pages.entries + 1, kMostNumber});
    return place(b);
  });
  add("pages behind the table", [](Broken& b, Sequence& s) -> const char* {
    if (!b.table || s.keys == s.prefix) return nullptr;
    s.page = b.p.cache.pages.entries - page_count(b, s) + 1;
    return "pages";
  });
  add("keys from a row that is none", [](Broken& b, Sequence& s) {
    const std::int64_t after = b.p.key.rows() - (s.keys - s.prefix) + 1;
    s.key = b.draw.pick({std::int64_t{-1}, kLeastNumber, b.table ? 1 : after, kMostNumber});
    return "sequences";
  });
  add("rows behind the query's", [](Broken& b, Sequence& s) {
    s.rows = b.draw.pick({b.p.query.rows() - s.row + 1, kMostNumber, std::int64_t{-1}, kLeastNumber});
    return "sequences";
  });
  add("a batch entry that is none", [](Broken& b, Sequence& s) {
    s.batch = b.draw.pick({std::int64_t{-1}, b.p.query.batches(), kMostNumber, kLeastNumber});
    return "sequences";
  });
  add("a prefix longer than the keys", [](Broken&, Sequence& s) -> const char* {
    if (s.prefix == 0) return nullptr;
    s.keys = s.prefix - 1;
    return "sequences";
  });
  add("a prefix of more rows than there are", [](Broken& b, Sequence& s) {
    const std::int64_t more = b.p.cache.prefix_key.rows() + 1 - s.prefix;
    s.prefix += more, s.keys += more;
    return "sequences";
  });
  add("a prefix below 0", [](Broken& b, Sequence& s) {
    s.prefix = b.draw.pick({std::int64_t{-1}, kLeastNumber});
    return "sequences";
  });
}

inline void add_tables(std::vector<Fault>& all) {
  const auto add = [&](const char* what, auto make) {
    all.push_back(
        {what, [make](Broken& b) -> const char* { return b.table ? make(b, b.p.cache.pages) : nullptr; }});
  };
  add("a table one entry short", [](Broken& b, Pages& pages) -> const char* {
    std::int64_t needed = 0;
    for (const Sequence& s : b.p.sequences)
      if (s.keys > s.prefix) needed = std::max(needed, s.page + page_count(b, s));
    pages.entries = needed - 1;
    return needed == 0 ? nullptr : "pages";
  });
  add("entries below 0, or past all memory", [](Broken& b, Pages& pages) {
    pages.entries = b.draw.pick({std::int64_t{-1}, kLeastNumber, kMostNumber, std::int64_t{1} << 60});
    return "pages";
  });
  add("entries without a table", [](Broken& b, Pages& pages) -> const char* {
    pages.table = nullptr;
    if (pages.entries == 0) return nullptr;
    return b.p.key.batches() == b.p.query.batches() ? "pages" : "key";
  });
  add("a table at an odd address", [](Broken& b, Pages& pages) -> const char* {
    pages.table = reinterpret_cast<const std::int32_t*>(reinterpret_cast<const std::byte*>(pages.table) +
                                                        b.draw.between(1, 3));
    return pages.entries == 0 ? nullptr : "pages";
  });
}

}  // namespace fusion_attention::testing
