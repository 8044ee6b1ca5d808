// How many cores this process may use.
#pragma once

#include <string>

namespace fusion_attention {

// The affinity of the calling thread, and the processor quota of its control group. At least 1.
int available_cores();

// Cores, rounded up, that the control groups named in `membership` (the text of /proc/self/cgroup) under the
// mount point `root` allow, the tightest of a group and its parents; 0 when none sets a limit.
int quota_cores(const std::string& root, const std::string& membership);

}  // namespace fusion_attention
