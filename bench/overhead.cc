// What a small call takes in C++: microseconds on one thread, a JSON array.
//
//   plan    run(plan, problem): a plan that is kept
//   run     run(problem): the plan is chosen anew, as every family does
//   family  FusionAttention: the words of npu_fusion_attention are read, a Problem is made of them, and run
//
// B1 N1 S16 D64, forward and backward; S1, "one pair", where next to nothing is left to compute; and decodes.
// Method: runs of kCalls calls, one of each row in turn, kRuns rounds; the best run of each row counts.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "fusion_attention/families/fusion_attention.h"
#include "fusion_attention/fusion_attention.h"

namespace {

using namespace fusion_attention;

constexpr int kCalls = 1000, kRuns = 25;
constexpr std::int64_t kRows = 16, kDepth = 64, kMostKeys = 64;

struct Row {
  std::string name;
  std::function<void(int)> call;  // the number of the call within its run
  double microseconds = 1e30;
};

// One small call's memory: zero, so that nothing is a matter of values. Enough for float32.
struct Tensors {
  using Memory = std::array<float, kMostKeys * kDepth>;
  Memory query{}, key{}, value{}, output{}, dy{}, dq{}, dk{}, dv{};
  std::array<float, kRows * 8> max{}, sum{};  // eight copies, as the documents say
};

Problem small(Pass pass, Dtype dtype, std::int64_t rows, std::int64_t keys, Tensors& t) {
  Problem p = dense_problem(pass, dtype, 1, 1, 1, rows, keys, kDepth, kDepth, 0.125, {});
  p.query.data = t.query.data(), p.key.data = t.key.data(), p.value.data = t.value.data();
  p.output.data = t.output.data(), p.output_gradient.data = t.dy.data();
  p.query_gradient.data = t.dq.data(), p.key_gradient.data = t.dk.data();
  p.value_gradient.data = t.dv.data();
  p.statistics.max = t.max.data(), p.statistics.sum = t.sum.data();
  return p;
}

void add_core(Pass pass, Dtype dtype, std::int64_t length, const std::string& name, Tensors& t,
              std::vector<Row>& rows) {
  const auto problem = std::make_shared<Problem>(small(pass, dtype, length, length, t));
  rows.push_back({name + " plan", [problem, plan = make_plan(*problem)](int) { run(plan, *problem); }});
  rows.push_back({name + " run", [problem](int) { run(*problem); }});
}

void add_family(Pass pass, Element element, std::int64_t length, const std::string& name, Tensors& t,
                std::vector<Row>& rows) {
  const std::int64_t shape[] = {1, 1, length, kDepth}, statistics[] = {1, 1, length, 8};
  const auto tensor = [&](void* data) { return contiguous_array(data, element, shape, 4); };
  const auto floats = [&](void* data) { return contiguous_array(data, Element::float32, statistics, 4); };
  FusionAttentionOptions options;
  options.head_num = 1, options.input_layout = "BNSD", options.scale = 0.125;
  const Array q = tensor(t.query.data()), k = tensor(t.key.data()), v = tensor(t.value.data()),
              out = tensor(t.output.data()), dy = tensor(t.dy.data()), max = floats(t.max.data()),
              sum = floats(t.sum.data());
  if (pass == Pass::forward) {
    rows.push_back({name + " family", [=, &t](int) {
                      FusionAttention(Pass::forward, q, k, v, options)
                          .forward(t.output.data(), t.max.data(), t.sum.data());
                    }});
    return;
  }
  Gradients gradients;
  gradients.dq = t.dq.data(), gradients.dk = t.dk.data(), gradients.dv = t.dv.data();
  rows.push_back({name + " family", [=](int) {
                    FusionAttention(Pass::backward, q, k, v, options).backward(dy, max, sum, out, gradients);
                  }});
}

// One row decodes; its keys are 1, 2, … kMostKeys, again and again, beside as many calls of their mean.
void add_decode(Dtype dtype, const std::string& name, Tensors& t, std::vector<Row>& rows) {
  const auto problem = std::make_shared<Problem>(small(Pass::forward, dtype, 1, kMostKeys, t));
  rows.push_back({name + " decode, keys grow", [problem](int call) {
                    problem->sequences[0].keys = 1 + call % kMostKeys;
                    run(*problem);
                  }});
  rows.push_back({name + " decode, same keys", [problem](int) {
                    problem->sequences[0].keys = kMostKeys / 2;
                    run(*problem);
                  }});
}

double microseconds(const Row& row) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  for (int call = 0; call < kCalls; ++call) row.call(call);
  return std::chrono::duration<double, std::micro>(Clock::now() - start).count() / kCalls;
}

}  // namespace

int main() {
  set_thread_count(1);
  Tensors tensors;
  tensors.sum.fill(kRows);  // of equal scores; their maximum is zero
  std::vector<Row> rows;
  struct Kind {
    Dtype dtype;
    Element element;
    const char* name;
  };
  constexpr Pass kForward = Pass::forward, kBackward = Pass::backward;
  for (const auto& [dtype, element, name] : {Kind{Dtype::float32, Element::float32, "float32"},
                                             Kind{Dtype::bfloat16, Element::bfloat16, "bfloat16"}}) {
    for (const Pass pass : {kForward, kBackward}) {
      const std::string what = std::string(name) + (pass == kForward ? " forward" : " backward");
      add_core(pass, dtype, kRows, what, tensors, rows);
      add_family(pass, element, kRows, what, tensors, rows);
    }
    const std::string pair = std::string(name) + " one pair";
    add_core(kForward, dtype, 1, pair, tensors, rows);
    add_family(kForward, element, 1, pair, tensors, rows);
    add_decode(dtype, name, tensors, rows);
  }
  for (int round = 0; round < kRuns; ++round)
    for (Row& row : rows) row.microseconds = std::min(row.microseconds, microseconds(row));
  for (const Row& row : rows)
    std::printf("%s{\"case\": \"%s\", \"us\": %.2f}", &row == rows.data() ? "[" : ",\n ", row.name.c_str(),
                row.microseconds);
  std::puts("]");
}
