#include "base/cores.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <sstream>
#include <thread>

namespace fusion_attention {
namespace {

// quota / period in cores, or 0 without a limit ("max" in version 2, -1 in version 1).
double limit(const std::string& quota, const std::string& period) {
  const double q = std::strtod(quota.c_str(), nullptr), p = std::strtod(period.c_str(), nullptr);
  return q > 0 && p > 0 ? q / p : 0;
}

double limit_of(const std::string& folder) {
  std::string quota, period;
  if (std::ifstream file(folder + "/cpu.max"); file >> quota >> period) return limit(quota, period);
  std::ifstream quota_file(folder + "/cpu.cfs_quota_us"), period_file(folder + "/cpu.cfs_period_us");
  return quota_file >> quota && period_file >> period ? limit(quota, period) : 0;
}

}  // namespace

int quota_cores(const std::string& root, const std::string& membership) {
  double tightest = 0;
  std::istringstream lines(membership);
  for (std::string line; std::getline(lines, line);) {  // hierarchy:controllers:/group
    const std::size_t first = line.find(':');
    const std::size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (!controllers.empty() && ("," + controllers + ",").find(",cpu,") == std::string::npos) continue;
    const std::string mount = controllers.empty() ? root : root + "/" + controllers;
    // In a container the group's own path may not be visible: its parents, up to the mount, always are.
    std::string group = line.substr(second + 1);
    while (true) {
      while (!group.empty() && group.back() == '/') group.pop_back();
      const double here = limit_of(mount + group);
      if (here > 0 && (tightest == 0 || here < tightest)) tightest = here;
      if (group.empty()) break;
      group.resize(group.rfind('/') == std::string::npos ? 0 : group.rfind('/'));
    }
  }
  return static_cast<int>(std::ceil(std::min(tightest, 1e6)));
}

int available_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  int cores = sched_getaffinity(0, sizeof set, &set) == 0
                  ? CPU_COUNT(&set)
                  : static_cast<int>(std::thread::hardware_concurrency());
  std::ifstream file("/proc/self/cgroup");
  std::ostringstream membership;
  membership << file.rdbuf();
  if (const int quota = quota_cores("/sys/fs/cgroup", membership.str()); quota > 0)
    cores = std::min(cores, quota);
  return std::max(cores, 1);
}

}  // namespace fusion_attention
