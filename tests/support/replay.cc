// One problem line on every kernel row that runs here, against fp64: what a failing test prints, pasted back.
//
//   replay "fwd bf16 b1 h4/2 q33 k65 d64/64 scale=1 band(-inf,0)" [seed]
//
// With the seed of a random problem, its very memory layout and numbers. FUSION_ATTENTION_KERNEL picks one
// arch, FUSION_ATTENTION_MACHINE=tiny the small blocks, as everywhere.
#include <cstdio>
#include <cstdlib>

#include "fusion_attention/error.h"
#include "support/bound.h"
#include "support/cached.h"
#include "support/every_arch.h"
#include "support/random_problem.h"

namespace fusion_attention::testing {
namespace {

std::unique_ptr<Case> case_of(const Problem& problem, const std::string& line, std::uint64_t seed,
                              bool infinities) {
  for (const Scores scores : {Scores::plain, Scores::joined}) {
    auto random = random_case(seed, problem.pass, infinities, scores);
    if (text(random->problem) == line) return random;
  }
  auto made = std::make_unique<Case>(problem, seed, Fill::normal, Layout::contiguous);
  if (problem.pass == Pass::backward) made->forward_first(1);
  made->poison_outputs();
  return made;
}

int replay(const std::string& line, std::uint64_t seed) {
  const Problem problem = parse(line);
  const char* picked = std::getenv("FUSION_ATTENTION_KERNEL");
  const std::string only = picked ? picked : "";
  int failures = 0;
  for (const std::string& arch : arches()) {
    if (!only.empty() && arch != only) continue;
    const std::string how = force(arch);
    if (how == kNotAtAll) continue;
    const auto made = case_of(problem, text(problem), seed, has_infinities(arch));
    const std::string kernel = make_plan(made->problem).kernel();
    run(made->problem);
    const Verdict verdict = judge(made->problem, route_of(arch, problem.query.dtype));
    const bool good = verdict.failures == 0 && made->trespassed() == 0;
    std::printf("%s %s (%s): worst error / bound %.2f, %lld elements outside%s%s\n",
                good ? "ok    " : "FAILED", kernel.c_str(), how.c_str(), verdict.worst,
                static_cast<long long>(verdict.failures), verdict.first.empty() ? "" : "\n       ",
                verdict.first.c_str());
    failures += !good;
  }
  return failures;
}

}  // namespace
}  // namespace fusion_attention::testing

int main(int count, char** words) {
  if (count < 2) {
    std::fprintf(stderr, "usage: replay \"<problem line>\" [seed]\n");
    return 2;
  }
  try {
    return fusion_attention::testing::replay(words[1],
                                             count > 2 ? std::strtoull(words[2], nullptr, 10) : 1) != 0;
  } catch (const fusion_attention::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
  }
}
