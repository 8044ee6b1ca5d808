#include "base/environment.h"

#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <set>
#include <string>

namespace fusion_attention {

const char* environment(const char* variable) {
  const char* value = std::getenv(variable);
  return value && *value ? value : nullptr;
}

void warn_ignored(const char* variable, const char* value, const char* allowed) {
  static std::mutex mutex;
  static std::set<std::string> warned;
  const std::lock_guard<std::mutex> lock(mutex);
  if (warned.insert(variable).second)
    std::fprintf(stderr, "fusion_attention: %s=%s is ignored: allowed is %s\n", variable, value, allowed);
}

}  // namespace fusion_attention
