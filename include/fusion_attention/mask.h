// Which keys a row sees: five integers per sequence, plus a dense overlay when the caller hands one.
//
// Every sparse mode of every interface gives each row one contiguous interval of keys. The mode
// tables live in api/ (each family has its own); nothing below this header knows that modes exist.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

namespace fusion_attention {

// Half open: [begin, end). Empty when begin >= end.
struct Interval {
  std::int64_t begin = 0;
  std::int64_t end = 0;

  bool empty() const { return begin >= end; }
  std::int64_t size() const { return empty() ? 0 : end - begin; }
};

// Row i sees keys i + lo ... i + hi, and keys [0, prefix) whatever i is; i is first rounded down to
// a multiple of `block`. `reach` ends the band once more, after key i + reach of the row itself: blocks
// of which the diagonal one is causal. i and j are global positions (Sequence::row0, key0), so that a
// shard of a sequence keeps the mask of the whole. A prefix needs lo = -kFar, so that a row stays one
// interval.
//
//   {}                      full            .hi = 0                  causal from the top left
//   .hi = keys - rows       bottom right    .lo = -pre, .hi = next   band
//   .lo = -7*128, .reach = 0, .block = 128  causal over its own block and the 7 before
struct Band {
  static constexpr std::int64_t kFar = std::int64_t{1} << 40;

  std::int64_t lo = -kFar;
  std::int64_t hi = +kFar;
  std::int64_t prefix = 0;
  std::int64_t block = 1;
  std::int64_t reach = kFar;

  bool full() const { return lo == -kFar && hi == kFar && reach == kFar; }

  // Keys [0, keys) that row i sees. Both ends never decrease with i.
  Interval row(std::int64_t i, std::int64_t keys) const {
    const std::int64_t base = i - i % block;
    return {std::clamp(base + lo, std::int64_t{0}, keys),
            std::clamp(std::max(std::min(base + hi, i + reach) + 1, prefix), std::int64_t{0}, keys)};
  }

  friend bool operator==(const Band&, const Band&) = default;
};

// A dense mask: a non-zero byte hides that key from that row. Indexed by the sequence's place
// [batch, head, local row, local key]; stride 0 broadcasts. Strides count bytes.
struct Overlay {
  const std::uint8_t* data = nullptr;  // null: no overlay
  std::array<std::int64_t, 4> stride{};

  explicit operator bool() const { return data != nullptr; }
};

}  // namespace fusion_attention
