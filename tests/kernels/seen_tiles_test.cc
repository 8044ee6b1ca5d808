// What the backward sees of a group of keys, against the mask pair by pair.
#include "kernels/seen_tiles.h"

#include <gtest/gtest.h>

#include <vector>

#include "arch/scalar.h"
#include "support/random.h"
#include "support/random_problem.h"

namespace fusion_attention::testing {
namespace {

using arch::Scalar;
using namespace kernels;

constexpr std::int64_t kHeads = 2;

// One super-block of all rows and groups of 96 keys.
class Tiles {
 public:
  Tiles(Draw& draw, std::int64_t rows, std::int64_t keys)
      : hidden_(static_cast<std::size_t>(kHeads * rows * keys)),
        visible_(static_cast<std::size_t>(rows)),
        seen_(static_cast<std::size_t>(blocks(rows))),
        words_(static_cast<std::size_t>((2 * blocks(rows) + 2) * kGroupBlocks * kBlock), 0xA5A5A5A5u) {
    shape.rows = rows, shape.keys = keys;
    shape.band = draw.band(rows, keys);
    for (std::uint8_t& byte : hidden_) byte = draw.one_in(9);
    for (std::int64_t n = 0; n < kHeads; ++n)  // tiles that nobody sees and tiles that everybody sees
      for (std::int64_t i = 0; i < rows; i += kBlock)
        for (std::int64_t j = 0; j < keys; j += kBlock)
          if (!draw.one_in(3)) fill(n, i, j, draw.one_in(2));
    for (std::int64_t b = 0; b < blocks(rows); ++b) {
      const std::int64_t n = std::min<std::int64_t>(kBlock, rows - b * kBlock);
      const std::uint32_t exist = n == kBlock ? ~0u : (1u << n) - 1;
      alive.push_back(draw.one_in(6)   ? 0
                      : draw.one_in(4) ? exist & static_cast<std::uint32_t>(draw.number())
                                       : exist);
    }
  }

  void use_mask(bool heads) {
    shape.overlay = {hidden_.data(), heads ? shape.rows * shape.keys : 0, shape.keys, 1};
  }
  // As plan/ makes them once per run.
  void use_words() {
    const std::int64_t pitch = round_up(shape.keys, kBlock);
    made_.assign(static_cast<std::size_t>(blocks(shape.rows) * pitch), 0xA5A5A5A5u);
    for (std::int64_t row = 0; row < shape.rows; row += kBlock)
      show_rows<Scalar>(shape, row, made_.data() + row / kBlock * pitch);
    shape.overlay.words = made_.data();
  }

  bool sees(std::int64_t head, std::int64_t i, std::int64_t j) const {
    if (i >= shape.rows || j >= shape.keys ||
        !(alive[static_cast<std::size_t>(i / kBlock)] >> i % kBlock & 1))
      return false;
    const Interval keys = shape.band.row(i, shape.keys);
    const OverlayPlane& m = shape.overlay;
    return j >= keys.begin && j < keys.end && !(m.data && m.data[head * m.head + i * m.row + j]);
  }

  void expect_right(std::int64_t head) {
    const std::int64_t used = blocks(shape.rows), area = used * kGroupBlocks * kBlock;
    SeenTiles<Scalar> tiles(shape, kGroupBlocks,
                            {.visible = visible_.data(),
                             .alive = words_.data() + 2 * area + kGroupBlocks * kBlock,
                             .seen = seen_.data(),
                             .rows = words_.data() + 2 * area,
                             .shown = words_.data(),
                             .kept = words_.data() + area});
    tiles.start(head, 0, shape.rows);
    for (std::int64_t q = 0; q < used; ++q) tiles.set_alive(q, alive[static_cast<std::size_t>(q)]);
    for (std::int64_t j = 0; j < shape.keys; ++j)
      for (std::int64_t i = 0; i < shape.rows; ++i)
        ASSERT_TRUE(!sees(head, i, j) || (j >= tiles.reach().begin && j < tiles.reach().end));
    constexpr std::int64_t kGroup = kGroupBlocks * kBlock;
    for (std::int64_t key = 0; key < shape.keys; key += kGroup) {
      const std::int64_t keys = std::min(kGroup, shape.keys - key);
      const Steps any = tiles.look(key, keys);
      Steps all = 0;
      for (std::int64_t q = 0; q < used; ++q) all |= tiles.keys(q);
      EXPECT_EQ(any, all);
      for (std::int64_t b = 0; b < blocks(keys); ++b)
        for (std::int64_t q = 0; q < used; ++q) expect_tile(tiles, head, key, q, b);
    }
  }

  Shape shape;
  std::vector<std::uint32_t> alive;

 private:
  static constexpr std::int64_t kGroupBlocks = 3;
  static std::int64_t blocks(std::int64_t n) { return ceil_div(n, kBlock); }

  void fill(std::int64_t n, std::int64_t row, std::int64_t key, bool hide) {
    for (std::int64_t i = row; i < std::min(row + kBlock, shape.rows); ++i)
      for (std::int64_t j = key; j < std::min(key + kBlock, shape.keys); ++j)
        hidden_[static_cast<std::size_t>((n * shape.rows + i) * shape.keys + j)] = hide ? 255 : 0;
  }

  void expect_tile(const SeenTiles<Scalar>& tiles, std::int64_t head, std::int64_t key, std::int64_t q,
                   std::int64_t b) const {
    std::uint32_t want[kBlock] = {}, some = 0, every = ~0u;
    for (int r = 0; r < kBlock; ++r) {
      for (int lane = 0; lane < kBlock; ++lane)
        want[r] |= std::uint32_t{sees(head, q * kBlock + lane, key + b * kBlock + r)} << lane;
      some |= want[r], every &= want[r];
    }
    const bool seen = tiles.keys(q) >> b & 1;
    EXPECT_EQ(tiles.queries(b) >> q & 1, Steps{seen});
    // What the band alone shows is asked of the first and the last row; and rows that are not alive may make
    // a tile seen of which nothing is left.
    if (some != 0 || (shape.overlay.data && alive[static_cast<std::size_t>(q)] == ~0u)) {
      EXPECT_EQ(seen, some != 0);
    }
    if (!seen) return;
    EXPECT_EQ(tiles.part(q, b), every != ~0u);
    for (int r = 0; r < kBlock; ++r) ASSERT_EQ(tiles.shown(q, b)[r], want[r]) << "key " << b * kBlock + r;
  }

  std::vector<std::uint8_t> hidden_;
  std::vector<Interval> visible_;
  std::vector<Seen> seen_;
  std::vector<std::uint32_t> words_, made_;
};

TEST(SeenTiles, AreThoseOfBandMaskAndLivingRows) {
  for (std::uint64_t i = 0; i < 400; ++i) {
    const std::uint64_t seed = i % 2 ? testing::seed() + i : i;
    Draw draw(seed);
    const std::int64_t rows = draw.length(), keys = draw.length();
    Tiles tiles(draw, rows, keys);
    if (i % 4 > 0) tiles.use_mask(i % 4 == 1);
    if (i % 4 == 3) tiles.use_words();
    for (std::int64_t head = 0; head < kHeads; ++head) tiles.expect_right(head);
    ASSERT_FALSE(::testing::Test::HasFailure()) << seed_line() << ", problem " << i;
  }
}

TEST(Steps, RunsAreThoseOfNeighbours) {
  const auto runs = [](Steps steps) {
    std::vector<std::pair<std::int64_t, std::int64_t>> all;
    each_run(steps, [&](Interval run) { all.emplace_back(run.begin, run.end); });
    return all;
  };
  using Runs = decltype(runs(0));
  EXPECT_EQ(runs(0), Runs{});
  EXPECT_EQ(runs(~Steps{0}), (Runs{{0, 64}}));
  EXPECT_EQ(runs(0b1011), (Runs{{0, 2}, {3, 4}}));
  EXPECT_EQ(runs(Steps{3} << 62 | 2), (Runs{{1, 2}, {62, 64}}));
}

}  // namespace
}  // namespace fusion_attention::testing
