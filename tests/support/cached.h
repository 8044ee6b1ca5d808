// The keys and values of a forward problem moved into a cache, by draw: pages, a prefix, rope channels apart,
// int8 and int4 with scales. Beside it the twin: plain tensors of the same rows, gathered here.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <deque>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "problem/reach.h"
#include "support/case.h"
#include "support/random_problem.h"

namespace fusion_attention::testing {

class Cached {
 public:
  // `from` has memory, of which the rows of its keys are copied; its outputs are shared by all three.
  Cached(const Problem& from, Draw& draw) : problem(from), twin(from), from_(from), draw_(draw) {
    draw_prefix();
    draw_pages();
    const std::int64_t depth = from.query.channels();
    const std::int64_t rope = draw.one_in(3) ? draw.between(0, depth - 1) : 0;
    const Dtype key = stored_dtype(depth - rope), value = stored_dtype(from.value.channels());
    make(problem.key, prefix_key_, problem.cache.key, from.key, key, 0, depth - rope);
    make(problem.value, prefix_value_, problem.cache.value, from.value, value, 0, from.value.channels());
    if (rope > 0) {
      Scaling none;
      make(problem.cache.key_rope, problem.cache.prefix_key_rope, none, from.key, from.query.dtype,
           depth - rope, rope);
    }
    if (prefix_ > 0) problem.cache.prefix_key = prefix_key_, problem.cache.prefix_value = prefix_value_;
    make_twin();
    for (Guarded& memory : memory_) mprotect(memory.head(), memory.size(), PROT_READ);
  }

  Problem problem, twin;

 private:
  std::byte* region(std::int64_t bytes, int fill) {
    Guarded& memory = memory_.emplace_back(static_cast<std::size_t>(bytes));
    std::memset(memory.head(), fill, memory.size());
    return draw_.one_in(2) ? memory.head() : memory.tail(static_cast<std::size_t>(bytes));
  }

  // [batch, head, row, channel] or [batch, row, head, channel] in memory, with or without gaps; bytes are
  // NaN.
  TensorView view(Dtype dtype, const std::array<std::int64_t, 4>& shape) {
    TensorView v{.dtype = dtype, .shape = shape};
    std::array<std::size_t, 4> order{3, 2, 1, 0};
    if (draw_.one_in(2)) std::swap(order[1], order[2]);
    const std::int64_t unit = dtype == Dtype::int4 ? 2 : 1;
    std::int64_t stride = !is_integer(dtype) && draw_.one_in(20) ? 2 : 1, last = 0;
    for (const std::size_t axis : order) {
      v.stride[axis] = stride;
      last += std::max<std::int64_t>(shape[axis] - 1, 0) * stride;
      stride *= std::max<std::int64_t>(shape[axis], 1);
      if (axis != 3 && draw_.one_in(4)) stride += unit * draw_.between(1, 5);
      if (axis == 3) stride = (stride + unit - 1) / unit * unit + (draw_.one_in(4) ? 2 * unit : 0);
    }
    v.data = region(bytes_of(dtype, (last + 2) / 2 * 2), 0xff);
    return v;
  }

  void draw_prefix() {
    if (!draw_.one_in(3) || problem.sequences.empty()) return;
    std::int64_t most = problem.sequences[0].keys;
    for (const Sequence& s : problem.sequences) most = std::min(most, s.keys);
    prefix_ = draw_.one_in(2) ? draw_.between(0, most) : std::min<std::int64_t>(most, 32);
    const bool all = draw_.one_in(2);
    for (Sequence& s : problem.sequences)
      if (all || draw_.one_in(2)) s.prefix = prefix_;
  }

  // Pages in no order, some of them of nobody; entries that no row reaches, of hidden pages and behind the
  // last one, point nowhere.
  void draw_pages() {
    if (!draw_.one_in(2)) return;
    page_ = draw_.pick<std::int64_t>({1, 3, 16, 32, 64, 128});
    std::int64_t used = 0;
    std::vector<std::int32_t>& table = table_;
    for (std::size_t i = 0; i < problem.sequences.size(); ++i) {
      Sequence& s = problem.sequences[i];
      const std::int64_t own = s.keys - s.prefix, count = (own + page_ - 1) / page_;
      s.page = static_cast<std::int64_t>(table.size());
      s.key = 0;
      for (std::int64_t page = 0; page < count; ++page) table.push_back(static_cast<std::int32_t>(used++));
      for (std::int64_t extra = draw_.between(0, 2); extra > 0; --extra)
        table.push_back(draw_.pick({-1, kNowhere, std::numeric_limits<std::int32_t>::min()}));
    }
    pages_ = used + draw_.between(used == 0, 3);
    std::vector<std::int32_t> place(static_cast<std::size_t>(pages_));
    std::iota(place.begin(), place.end(), 0);
    std::shuffle(place.begin(), place.end(), std::mt19937_64(draw_.number()));
    for (std::int32_t& entry : table)
      if (entry >= 0 && entry < pages_) entry = place[static_cast<std::size_t>(entry)];
    const auto entries = static_cast<std::int64_t>(table.size());
    auto* given = reinterpret_cast<std::int32_t*>(region(entries * 4, 0xff));
    std::copy(table.begin(), table.end(), given);
    for (const Sequence& s : problem.sequences) {
      const Interval reached = reached_pages(s, page_);
      for (std::int64_t page = 0; page * page_ < s.keys - s.prefix; ++page)
        if (page < reached.begin || page >= reached.end) given[s.page + page] = page % 2 ? kNowhere : -1;
    }
    problem.cache.pages = {given, entries};
  }

  Dtype stored_dtype(std::int64_t channels) {
    const auto dtype = draw_.pick({from_.query.dtype, from_.query.dtype, Dtype::int8, Dtype::int4});
    return dtype == Dtype::int4 && channels % 2 != 0 ? Dtype::int8 : dtype;
  }

  std::array<std::int64_t, 4> place(const Sequence& s, std::int64_t n, std::int64_t j, std::int64_t c) const {
    j -= s.prefix;
    if (page_ == 0) return {s.batch, n, s.key + j, c};
    return {table_[static_cast<std::size_t>(s.page + j / page_)], n, j % page_, c};
  }

  // Channels [first, first + count) of the rows of `plain`, into `all` and `prefix`.
  void make(TensorView& all, TensorView& prefix, Scaling& scaling, const TensorView& plain, Dtype dtype,
            std::int64_t first, std::int64_t count) {
    const std::int64_t heads = from_.key.heads();
    all = view(dtype, page_ ? std::array{pages_, heads, page_, count}
                            : std::array{from_.key.batches(), heads, from_.key.rows(), count});
    if (prefix_ > 0) prefix = view(dtype, {1, heads, prefix_, count});
    if (is_integer(dtype)) {
      randomise(all);
      if (prefix_ > 0) randomise(prefix);
      const auto numbers = draw_.pick({Dtype::float32, Dtype::float16, Dtype::bfloat16});
      scaling.by_position = draw_.one_in(3);
      auto shape = all.shape;
      if (scaling.by_position) {
        shape[0] = from_.query.batches(), shape[2] = draw_.between(0, 2);
        for (const Sequence& s : problem.sequences) shape[2] = std::max(shape[2], s.keys - s.prefix);
      }
      if (!draw_.one_in(12)) scaling.scale = scales(shape, numbers, 0.02);
      if (draw_.one_in(2)) scaling.offset = scales(shape, numbers, 5);
      return;
    }
    for (std::size_t i = 0; i < problem.sequences.size(); ++i) {
      const Sequence &s = problem.sequences[i], &was = from_.sequences[i];
      for (std::int64_t n = 0; n < heads; ++n)
        for (std::int64_t j = 0; j < s.keys; ++j)
          for (std::int64_t c = 0; c < count; ++c) {
            const double x = read(plain, was.batch, n, was.key + j, first + c);
            if (j < s.prefix) {
              write(prefix, 0, n, j, c, x);
            } else {
              const auto at = place(s, n, j, c);
              write(all, at[0], at[1], at[2], at[3], x);
            }
          }
    }
  }

  void randomise(const TensorView& v) {
    std::mt19937_64 random(draw_.number());
    std::int64_t last = 1;
    for (std::size_t axis = 0; axis < 4; ++axis)
      last += std::max<std::int64_t>(v.shape[axis] - 1, 0) * v.stride[axis];
    auto* bytes = static_cast<std::uint8_t*>(v.data);
    for (std::int64_t i = 0; i < bytes_of(v.dtype, last + last % 2); ++i)
      bytes[i] = static_cast<std::uint8_t>(random());
  }

  // Numbers of either sign along the axes that a draw picks, seldom a NaN among them.
  TensorView scales(const std::array<std::int64_t, 4>& shape, Dtype dtype, double size) {
    TensorView v{.dtype = dtype, .shape = shape};
    std::int64_t stride = 1;
    for (std::size_t axis = 4; axis-- > 0;) {
      const bool present = (axis != 2 || prefix_ == 0) && !draw_.one_in(2);
      v.stride[axis] = present ? stride : 0;
      if (present) stride *= std::max<std::int64_t>(v.shape[axis], 1);
    }
    v.data = region(stride * size_of(v.dtype), 0xff);
    const TensorView flat{
        .data = v.data, .dtype = v.dtype, .shape = {1, 1, 1, stride}, .stride = {0, 0, 0, 1}};
    std::mt19937_64 random(draw_.number());
    std::uniform_real_distribution<double> number(size / 4, size);
    for (std::int64_t i = 0; i < stride; ++i)
      write(flat, 0, 0, 0, i, random() % 4 == 0 ? -number(random) : number(random));
    if (draw_.one_in(8)) write(flat, 0, 0, 0, draw_.between(0, stride - 1), NAN);
    return v;
  }

  double stored(const TensorView& v, const std::array<std::int64_t, 4>& at) const {
    if (!is_integer(v.dtype)) return read(v, at[0], at[1], at[2], at[3]);
    std::int64_t index = 0;
    for (std::size_t axis = 0; axis < 4; ++axis) index += at[axis] * v.stride[axis];
    const auto* bytes = static_cast<const std::uint8_t*>(v.data);
    if (v.dtype == Dtype::int8) return static_cast<std::int8_t>(bytes[index]);
    const int half = index % 2 ? bytes[index / 2] >> 4 : bytes[index / 2] & 15;
    return half > 7 ? half - 16 : half;
  }

  double number(const Sequence& s, const TensorView& all, const TensorView& prefix, const Scaling& scaling,
                std::int64_t n, std::int64_t j, std::int64_t c) const {
    const bool first = j < s.prefix;
    const auto at = first ? std::array{std::int64_t{0}, n, j, c} : place(s, n, j, c);
    double x = stored(first ? prefix : all, at);
    if (!is_integer(all.dtype)) return x;
    const auto scale_of = [&](const TensorView& v) {
      const bool by_position = scaling.by_position && !first;
      return static_cast<float>(by_position ? read(v, s.batch, n, j - s.prefix, c)
                                            : read(v, first ? 0 : at[0], n, first ? 0 : at[2], c));
    };
    auto y = static_cast<float>(x);
    if (scaling.offset.data) y = y + scale_of(scaling.offset);
    if (scaling.scale.data) y = y * scale_of(scaling.scale);
    return static_cast<double>(y);
  }

  // One batch entry for all, in which the keys of the sequences follow one another.
  void make_twin() {
    std::int64_t keys = 0;
    for (Sequence& s : twin.sequences) s.key = keys, keys += s.keys;
    const auto plain = [&](const TensorView& like) {
      TensorView v{.dtype = from_.query.dtype,
                   .shape = {like.batches(), like.heads(), keys, like.channels()},
                   .stride = {0, keys * like.channels(), like.channels(), 1}};
      v.data = region(like.heads() * keys * like.channels() * size_of(v.dtype), 0xff);
      return v;
    };
    twin.key = plain(from_.key), twin.value = plain(from_.value);
    const std::int64_t own = problem.key.channels();
    for (std::size_t i = 0; i < twin.sequences.size(); ++i) {
      const Sequence &s = problem.sequences[i], &to = twin.sequences[i];
      for (std::int64_t n = 0; n < from_.key.heads(); ++n)
        for (std::int64_t j = 0; j < s.keys; ++j) {
          for (std::int64_t c = 0; c < from_.query.channels(); ++c)
            write(twin.key, 0, n, to.key + j, c,
                  c < own
                      ? number(s, problem.key, prefix_key_, problem.cache.key, n, j, c)
                      : number(s, problem.cache.key_rope, problem.cache.prefix_key_rope, {}, n, j, c - own));
          for (std::int64_t c = 0; c < from_.value.channels(); ++c)
            write(twin.value, 0, n, to.key + j, c,
                  number(s, problem.value, prefix_value_, problem.cache.value, n, j, c));
        }
    }
  }

  static constexpr std::int32_t kNowhere = std::numeric_limits<std::int32_t>::max();

  const Problem& from_;
  Draw& draw_;
  std::int64_t prefix_ = 0, page_ = 0, pages_ = 0;
  std::vector<std::int32_t> table_;  // with the pages of all keys, hidden or not
  TensorView prefix_key_, prefix_value_;
  std::deque<Guarded> memory_;
};

// A random forward whose keys are in a cache.
struct RandomCached {
  explicit RandomCached(std::uint64_t seed, bool infinities = true, Scores scores = Scores::plain)
      : made(random_case(seed, Pass::forward, infinities, scores)),
        draw(~seed),
        cached(made->problem, draw) {}

  std::unique_ptr<Case> made;
  Draw draw;
  Cached cached;
};

}  // namespace fusion_attention::testing
