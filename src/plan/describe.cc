#include "fusion_attention/describe.h"

#include <algorithm>

#include "arch/cpu.h"
#include "kernels/kernels.h"
#include "plan/choose.h"
#include "plan/machine.h"

namespace fusion_attention {

std::string cpu_name() {
  return arch::cpu_name();
}

std::vector<Part> instruction_sets() {
  std::vector<Part> parts;
  for (const arch::Isa isa : arch::kIsas) parts.push_back({arch::name(isa), arch::status(isa).reason});
  return parts;
}

std::vector<Part> kernels_built() {
  std::vector<Part> parts;
  for (const kernels::Row& row : kernels::rows()) parts.push_back({row.name, plan::refused(row)});
  return parts;
}

namespace {

// The choice was made on what a core reaches within 60 µs; after its first wide instructions it takes longer
// to come to speed.
double settled_rate(const kernels::Row& row, double rate) {
  const auto measure = row.backward ? row.backward->rate : row.forward->rate;
  for (int i = 0; i < 50; ++i) rate = std::max(rate, measure());
  return rate;
}

Choice choice(kernels::Algorithm algorithm, Dtype dtype) {
  Choice made;
  made.pass = plan::name(algorithm), made.dtype = name(dtype);
  for (const plan::Candidate& candidate : plan::weigh(algorithm, dtype)) {
    const kernels::Row& row = *candidate.row;
    if (!candidate.passed_over.empty()) {
      if (row.algorithm == algorithm && row.dtype == dtype)
        made.passed_over.push_back({row.name, candidate.passed_over});
      continue;
    }
    const plan::Route route = plan::route_of(row);
    const auto [machine, blocking] = plan::machine_row(row, 128, 128);
    made.kernel = row.name;
    made.route = route.text, made.roof = route.roof, made.products = route.products;
    made.rate = settled_rate(row, candidate.rate);
    made.machine = machine;
    made.rows = blocking.rows, made.keys = blocking.keys;
    made.round_trip = blocking.round_trip, made.splits = blocking.splits;
  }
  return made;
}

}  // namespace

std::vector<Choice> choices() {
  using kernels::Algorithm;
  std::vector<Choice> all;
  for (const Algorithm algorithm : {Algorithm::forward, Algorithm::decode, Algorithm::backward})
    for (const Dtype dtype : {Dtype::float32, Dtype::float16, Dtype::bfloat16})
      all.push_back(choice(algorithm, dtype));
  all.push_back(choice(Algorithm::integer, Dtype::int8));
  return all;
}

}  // namespace fusion_attention
