// The arches of this build and how each one runs on this machine.
#pragma once

#include <ostream>
#include <string>
#include <vector>

#include "arch/verb_table.h"

namespace fusion_attention::arch {

struct Machine {
  const VerbTable* verbs;
  std::string
      how;  // "natively", "natively, though CPUID does not announce it", "emulated", "not at all: ..."
  bool runs;

  friend std::ostream& operator<<(std::ostream& out, const Machine& m) {
    return out << m.verbs->name << " " << m.how;
  }
};

// Every arch except Scalar. The first call prints one line for each.
const std::vector<Machine>& machines();

// The definition, compiled with the baseline flags.
extern const VerbTable verbs_scalar;

// nullptr unless it runs here.
const VerbTable* find(const char* name);

}  // namespace fusion_attention::arch
