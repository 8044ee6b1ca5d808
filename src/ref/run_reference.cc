#include "fusion_attention/run.h"
#include "problem/validate.h"
#include "ref/exact.h"

namespace fusion_attention {

void run_reference(const Problem& problem) {
  validate(problem);
  validate_memory(problem);
  problem.pass == Pass::forward ? ref::forward(problem) : ref::backward(problem);
}

}  // namespace fusion_attention
