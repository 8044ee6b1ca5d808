// What tests must know of sanitizers.
#pragma once

// Whether one has the memory of this program: 1 or 0.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define FUSION_ATTENTION_SANITIZED 1
#elif defined(__has_feature)
#define FUSION_ATTENTION_SANITIZED (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#else
#define FUSION_ATTENTION_SANITIZED 0
#endif

// The thread sanitizer otherwise ends a child of fork() that starts threads. Not inline: that would be as
// weak as the default. A test is a program of one file.
extern "C" const char* __tsan_default_options() {
  return "die_after_fork=0";
}
