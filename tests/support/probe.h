// Does a piece of code execute here? Tried in a child process, because an instruction that the CPU or the
// operating system refuses ends the process that tries it. CPUID is not asked: it may hide what works.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

namespace fusion_attention::testing {

template <class Code>
bool executes(Code code) {
  const pid_t child = fork();
  if (child == 0) {
    code();
    _exit(0);
  }
  int status = 0;
  return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

}  // namespace fusion_attention::testing
