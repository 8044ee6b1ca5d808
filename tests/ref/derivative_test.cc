// The reference against a second statement of attention, dense and tiny, and its gradients against central
// differences of Σ dO∘O in double precision. What is differentiated knows neither Problem nor Plane: arrays
// in [B, N, S, ·] order and an index each.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <random>
#include <vector>

#include "fusion_attention/run.h"
#include "problem/planes.h"
#include "ref/scores.h"
#include "support/random.h"

namespace fusion_attention {
namespace {

constexpr std::int64_t B = 2, N = 4, KvHeads = 2, D = 3, Dv = 2;

struct Setting {
  const char* name;
  BiasKind kind = BiasKind::none;
  BiasAxes axes{};
  bool before = false, dropout = false, sink = false, causal = false;
  std::int64_t last = 0, shift = 0, rows = 5, keys = 6;
};

const Setting kSettings[] = {
    {.name = "plain"},
    {.name = "dense", .kind = BiasKind::dense, .axes = {true, true, true}},
    {.name = "dense_before_scale", .kind = BiasKind::dense, .axes = {true, true, true}, .before = true},
    {.name = "one_row", .kind = BiasKind::dense, .axes = {true, true, false}},
    {.name = "one_head", .kind = BiasKind::dense, .axes = {true, false, true}, .before = true, .sink = true},
    {.name = "keys_only", .kind = BiasKind::dense, .dropout = true, .sink = true},
    {.name = "one_batch", .kind = BiasKind::dense, .axes = {false, true, true}, .causal = true},
    {.name = "last_rows",
     .kind = BiasKind::dense,
     .axes = {true, true, true},
     .causal = true,
     .last = 3,
     .rows = 7,
     .keys = 7},
    {.name = "distance", .kind = BiasKind::distance, .axes = {.head = true}, .shift = -2},
    {.name = "root_distance", .kind = BiasKind::root_distance, .axes = {true, true}, .shift = 1},
    {.name = "dropout", .dropout = true},
    {.name = "dropout_causal", .dropout = true, .causal = true, .rows = 6, .keys = 5},
    {.name = "sink", .sink = true},
    {.name = "everything",
     .kind = BiasKind::dense,
     .axes = {true, true, true},
     .before = true,
     .dropout = true,
     .sink = true,
     .causal = true},
};

// Everything that the loss depends on; the bias as it is stored.
struct Numbers {
  std::vector<double> q, k, v, d_o, bias, sink;
};

class Derivative : public ::testing::TestWithParam<Setting> {
 protected:
  const Setting set = GetParam();
  static constexpr double kScale = 0.7;
  static constexpr double kKeep = 0.6;
  const Dropout dropout_{.keep_prob = kKeep, .seed = 77, .offset = 5};

  bool visible(std::int64_t i, std::int64_t j) const { return !set.causal || j <= i - 1 + (set.last > 0); }

  // The bias of a pair: with last rows L, the data are rows S − L … S − 1 of a function of the distance i −
  // j.
  double bias(const Numbers& x, std::int64_t b, std::int64_t n, std::int64_t i, std::int64_t j) const {
    const BiasAxes& axes = set.axes;
    const std::int64_t block = (axes.batch ? b : 0) * (axes.head ? N : 1) + (axes.head ? n : 0);
    if (set.kind == BiasKind::none) return 0;
    if (set.kind != BiasKind::dense) {
      const double distance = std::fabs(static_cast<double>(j - i + set.shift));
      return -x.bias[static_cast<std::size_t>(block)] *
             (set.kind == BiasKind::distance ? distance : std::sqrt(distance));
    }
    std::int64_t rows = axes.row ? set.rows : 1, row = axes.row ? i : 0, column = j;
    if (set.last) {
      rows = set.last;
      row = i >= set.rows - rows ? i - (set.rows - rows) : i % rows;
      column = set.rows - rows + row - (i - j);
    }
    return x.bias[static_cast<std::size_t>((block * rows + row) * set.keys + column)];
  }

  double kept(std::int64_t b, std::int64_t n, std::int64_t i, std::int64_t j) const {
    if (!set.dropout) return 1;
    return ref::kept(dropout_, ((b * N + n) * set.rows + i) * set.keys + j) ? 1 / kKeep : 0;
  }

  // O [B, N, Sq, Dv].
  std::vector<double> attention(const Numbers& x) const {
    std::vector<double> out;
    for (std::int64_t row = 0; row < B * N * set.rows; ++row) {
      const std::int64_t b = row / set.rows / N, n = row / set.rows % N, i = row % set.rows,
                         kv = b * KvHeads + n / (N / KvHeads);
      double sum = set.sink ? std::exp(x.sink[static_cast<std::size_t>(n)]) : 0, mean[Dv] = {};
      for (std::int64_t j = 0; j < set.keys; ++j) {
        if (!visible(i, j)) continue;
        const std::int64_t key = kv * set.keys + j;
        double y = 0;
        for (std::int64_t d = 0; d < D; ++d)
          y += x.q[static_cast<std::size_t>(row * D + d)] * x.k[static_cast<std::size_t>(key * D + d)];
        y = set.before ? kScale * (y + bias(x, b, n, i, j)) : kScale * y + bias(x, b, n, i, j);
        sum += std::exp(y);
        for (std::int64_t c = 0; c < Dv; ++c)
          mean[c] += std::exp(y) * kept(b, n, i, j) * x.v[static_cast<std::size_t>(key * Dv + c)];
      }
      for (const double one : mean) out.push_back(sum > 0 ? one / sum : 0);
    }
    return out;
  }

  double loss(const Numbers& x) const {
    const std::vector<double> out = attention(x);
    double sum = 0;
    for (std::size_t e = 0; e < out.size(); ++e) sum += x.d_o[e] * out[e];
    return sum;
  }

  // dL/dx of one array, by central differences.
  std::vector<double> gradient(Numbers x, std::vector<double> Numbers::* which) const {
    std::vector<double> out;
    for (double& number : x.*which) {
      const double at = number, step = 1e-5;
      number = at + step;
      const double above = loss(x);
      number = at - step;
      out.push_back((above - loss(x)) / (2 * step));
      number = at;
    }
    return out;
  }

  Numbers numbers() const {
    std::mt19937_64 random(testing::seed());
    std::normal_distribution<float> normal;
    const auto some = [&](std::int64_t count) {
      std::vector<double> out(static_cast<std::size_t>(count));
      for (double& number : out) number = normal(random);  // fp32 numbers, so that both sides see the same
      return out;
    };
    const std::int64_t rows = set.last ? set.last : set.axes.row ? set.rows : 1;
    const std::int64_t blocks = (set.axes.batch ? B : 1) * (set.axes.head ? N : 1);
    const std::int64_t bias = set.kind == BiasKind::dense ? blocks * rows * set.keys : blocks;
    return {some(B * N * set.rows * D),
            some(B * KvHeads * set.keys * D),
            some(B * KvHeads * set.keys * Dv),
            some(B * N * set.rows * Dv),
            some(bias),
            some(N)};
  }
};

// A float copy that a view or a pointer can name.
struct Memory {
  std::vector<float> q, k, v, d_o, bias, sink, out, max, sum, dq, dk, dv, dbias, dsink;
};

std::vector<float> floats(const std::vector<double>& from) {
  return {from.begin(), from.end()};
}

Problem problem_of(const Setting& set, double scale, const Dropout& dropout, const Numbers& x, Memory& m) {
  Problem p = dense_problem(Pass::backward, Dtype::float32, B, N, KvHeads, set.rows, set.keys, D, Dv, scale,
                            set.causal ? Band{.hi = set.last > 0 ? 0 : -1} : Band{});
  m.q = floats(x.q), m.k = floats(x.k), m.v = floats(x.v), m.d_o = floats(x.d_o);
  m.bias = floats(x.bias), m.sink = floats(x.sink);
  const auto entries = static_cast<std::size_t>(B * N * set.rows);
  m.out.resize(m.d_o.size()), m.max.resize(entries), m.sum.resize(entries);
  m.dq.resize(m.q.size(), NAN), m.dk.resize(m.k.size(), NAN), m.dv.resize(m.v.size(), NAN);
  m.dbias.resize(m.bias.size(), NAN), m.dsink.resize(m.sink.size(), NAN);
  p.query.data = m.q.data(), p.key.data = m.k.data(), p.value.data = m.v.data();
  p.output.data = m.out.data(), p.output_gradient.data = m.d_o.data();
  p.query_gradient.data = m.dq.data(), p.key_gradient.data = m.dk.data(), p.value_gradient.data = m.dv.data();
  p.statistics = {.max = m.max.data(), .sum = m.sum.data(), .copies = 1};
  p.bias = {.kind = set.kind, .data = m.bias.data(), .before_scale = set.before, .last_rows = set.last};
  if (p.bias) natural_bias(p, set.axes, Numbering::tensor);
  if (set.kind == BiasKind::dense) p.bias.gradient = m.dbias.data();
  for (Sequence& s : p.sequences) s.bias_shift = set.shift;
  if (set.dropout) p.dropout = dropout, natural_dropout(p, Numbering::tensor);
  if (set.sink) p.sink = {m.sink.data(), m.dsink.data()};
  return p;
}

void expect_near(const char* what, const std::vector<float>& got, const std::vector<double>& want) {
  ASSERT_EQ(got.size(), want.size()) << what;
  for (std::size_t e = 0; e < want.size(); ++e)
    EXPECT_NEAR(got[e], want[e], 3e-6 * (1 + std::fabs(want[e])))
        << what << "[" << e << "], " << testing::seed_line();
}

TEST_P(Derivative, IsThatOfTheDenseStatement) {
  const Numbers x = numbers();
  Memory m;
  Problem p = problem_of(set, kScale, dropout_, x, m);
  p.pass = Pass::forward;
  run_reference(p);
  expect_near("output", m.out, attention(x));
  p.pass = Pass::backward;
  run_reference(p);
  expect_near("query_gradient", m.dq, gradient(x, &Numbers::q));
  expect_near("key_gradient", m.dk, gradient(x, &Numbers::k));
  expect_near("value_gradient", m.dv, gradient(x, &Numbers::v));
  if (set.kind == BiasKind::dense) expect_near("bias.gradient", m.dbias, gradient(x, &Numbers::bias));
  if (set.sink) expect_near("sink.gradient", m.dsink, gradient(x, &Numbers::sink));
}

INSTANTIATE_TEST_SUITE_P(Every, Derivative, ::testing::ValuesIn(kSettings),
                         [](const auto& info) { return std::string(info.param.name); });

// Ruling 6: statistics include the sink, a row that sees nothing else (row 0 here) has all its weight there.
TEST(Sink, IsTheWholeOfARowThatSeesNoKey) {
  const Setting set{.name = "", .sink = true, .causal = true};
  Numbers x;
  x.q.assign(B * N * 5 * D, 1), x.k.assign(B * KvHeads * 6 * D, 1), x.v.assign(B * KvHeads * 6 * Dv, 1);
  x.d_o.assign(B * N * 5 * Dv, 1), x.bias.assign(1, 0), x.sink = {-2, -1, 0.5, 3};
  Memory m;
  Problem p = problem_of(set, 1, {}, x, m);
  p.pass = Pass::forward;
  run_reference(p);
  for (std::size_t n = 0; n < 4; ++n) {
    const std::size_t row = n * 5;
    EXPECT_EQ(m.max[row], m.sink[n]);
    EXPECT_EQ(m.sum[row], 1);
    EXPECT_EQ(m.out[row * Dv], 0);
    EXPECT_EQ(m.max[row + 1], 3);  // D · 1 · 1
    EXPECT_FLOAT_EQ(m.sum[row + 1], static_cast<float>(1 + std::exp(x.sink[n] - 3)));
  }
}

}  // namespace
}  // namespace fusion_attention
