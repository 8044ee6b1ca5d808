// Causal attention of one head, from the installed package and its public headers alone.
#include <cmath>
#include <cstdio>
#include <vector>

#include <fusion_attention/fusion_attention.h>

int main() {
  using namespace fusion_attention;
  constexpr int kRows = 100, kDepth = 40;
  std::vector<float> q(kRows * kDepth, 0.5f), k = q, v = q, out(q.size());
  Problem p =
      dense_problem(Pass::forward, Dtype::float32, 1, 1, 1, kRows, kRows, kDepth, kDepth, 0.1, {.hi = 0});
  p.query.data = q.data(), p.key.data = k.data(), p.value.data = v.data(), p.output.data = out.data();
  run(p);
  std::puts(explain(p).c_str());
  for (const float x : out)
    if (std::fabs(x - 0.5f) > 1e-5f) return 1;  // the mean of equal values
}
