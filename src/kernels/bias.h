// What joins the scores of a 32 × 32 tile before the softmax (scores.h), as a C block in the unit of the
// exponent, base 2: read or generated here, so that the row hooks know one addition and no kinds.
#pragma once

#include "kernels/kernels.h"
#include "kernels/pack.h"

namespace fusion_attention::kernels {

inline constexpr float kLog2E = 1.44269504088896341f;

// One tile: local rows [row, row + rows) and keys [key, key + keys) of one head, at most 32 of each.
struct TilePlace {
  std::int64_t head, row, key;
  int rows, keys;
};

template <class Arch, class T>
class BiasTile {
  using vec = typename Arch::vec;

 public:
  FA_INLINE BiasTile(const Shape& shape, const TilePlace& at) : shape_(shape), bias_(shape.bias), at_(at) {}

  // C[row][key], and C[key][row] for the backward. What lies past the rows and keys of the place, or past the
  // diagonal of a bias of last rows, is 0.
  void fill(float* c) const {
    if (bias_.kind != BiasKind::dense) return fill_distance(c, at_.row - at_.key, 1.0f);
    for (int r = 0; r < at_.rows; ++r)
      for (int half = 0; half < 2; ++half)
        Arch::store(c + arch::c_offset(r, half), Arch::mul(numbers(r, half), factor()));
  }
  void fill_transposed(float* c) const {
    if (bias_.kind != BiasKind::dense) return fill_distance(c, at_.key - at_.row, -1.0f);
    each_quarter([&](vec(&tile)[kLanes], int row_half, int key_half) {
      for (int i = 0; i < kLanes; ++i) {
        const int r = row_half * kLanes + i;
        tile[i] = r < at_.rows ? Arch::mul(numbers(r, key_half), factor()) : Arch::zero();
      }
      Arch::transpose(tile);
      for (int i = 0; i < kLanes; ++i)
        Arch::store(c + arch::c_offset(key_half * kLanes + i, row_half), tile[i]);
    });
  }

  // Adds dS, C[key][row], to the gradient of the numbers this tile was made of.
  void add_gradient(const float* ds) const {
    if (bias_.kind != BiasKind::dense) return add_slope_gradient(ds);
    const vec scale = Arch::set(bias_.before_scale ? shape_.scale : 1.0f);
    each_quarter([&](vec(&tile)[kLanes], int row_half, int key_half) {
      for (int i = 0; i < kLanes; ++i)
        tile[i] = Arch::load(ds + arch::c_offset(key_half * kLanes + i, row_half));
      Arch::transpose(tile);
      for (int i = 0; i < lesser(kLanes, at_.rows - row_half * kLanes); ++i) {
        const int r = row_half * kLanes + i;
        const std::int64_t n = readable(r) - key_half * kLanes;
        if (n <= 0) continue;
        float* to = bias_.gradient + index(r) + key_half * kLanes;
        store_some<Arch>(to, Arch::fma(tile[i], scale, load_some<Arch>(to, n)), n);
      }
    });
  }

 private:
  template <class Visit>
  FA_INLINE static void each_quarter(Visit visit) {
    vec tile[kLanes];
    for (int row_half = 0; row_half < 2; ++row_half)
      for (int key_half = 0; key_half < 2; ++key_half) visit(tile, row_half, key_half);
  }

  // Where row r of the tile has its number of key `at_.key`. A bias of the last H rows is read at a row that
  // is stored and has the same distance to its key.
  FA_INLINE std::int64_t index(int r) const {
    const std::int64_t i = at_.row + r, base = at_.head * bias_.head + at_.key;
    if (bias_.last_rows == 0) return base + i * bias_.row;
    const std::int64_t first = shape_.rows - bias_.last_rows;
    if (i >= first) return base + (i - first) * bias_.row;
    const std::int64_t stored = i % bias_.last_rows;
    return base + stored * bias_.row + first - i + stored;
  }
  // Keys of the tile that may be read in row r: past the diagonal, those of last rows run over their end.
  FA_INLINE std::int64_t readable(int r) const {
    return bias_.last_rows == 0 ? at_.keys : lesser(at_.keys, at_.row + r + 1 - at_.key);
  }
  FA_INLINE vec numbers(int r, int half) const {
    const std::int64_t n = readable(r) - half * kLanes, at = index(r) + half * kLanes;
    if (n <= 0) return Arch::zero();
    return bias_.of_query_dtype ? load_some<Arch>(static_cast<const T*>(bias_.data) + at, n)
                                : load_some<Arch>(static_cast<const float*>(bias_.data) + at, n);
  }
  FA_INLINE vec factor() const { return Arch::set(bias_.before_scale ? shape_.scale * kLog2E : kLog2E); }

  FA_INLINE float slope() const { return static_cast<const float*>(bias_.data)[at_.head * bias_.head]; }
  FA_INLINE vec penalty(vec difference) const {
    const vec distance = Arch::max(difference, Arch::sub(Arch::zero(), difference));
    return bias_.kind == BiasKind::distance ? distance : Arch::sqrt(distance);
  }
  // −slope·|j − i + shift|; `first`: the row (of C) minus the lane at the corner, sign·(i − j).
  FA_INLINE void fill_distance(float* c, std::int64_t first, float sign) const {
    const vec factor = Arch::set(-slope() * kLog2E);
    each_distance(first, sign, [&](int r, int half, vec distance) {
      Arch::store(c + arch::c_offset(r, half), Arch::mul(distance, factor));
    });
  }
  template <class Visit>
  FA_INLINE void each_distance(std::int64_t first, float sign, Visit visit) const {
    static constexpr float kIota[kLanes] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const vec lanes = Arch::load(kIota);
    const std::int64_t shift = sign > 0 ? bias_.shift : -bias_.shift;
    for (int r = 0; r < kBlock; ++r)
      for (int half = 0; half < 2; ++half) {
        const auto corner = static_cast<float>(half * kLanes - r - first + shift);
        visit(r, half, penalty(Arch::add(lanes, Arch::set(corner))));
      }
  }
  void add_slope_gradient(const float* ds) const {
    vec sum = Arch::zero();
    each_distance(at_.key - at_.row, -1.0f, [&](int r, int half, vec distance) {
      sum = Arch::fma(Arch::load(ds + arch::c_offset(r, half)), distance, sum);
    });
    bias_.gradient[at_.head * bias_.head] -= Arch::reduce_add(sum);
  }

  const Shape& shape_;
  const BiasPlane& bias_;
  const TilePlace at_;
};

}  // namespace fusion_attention::kernels
