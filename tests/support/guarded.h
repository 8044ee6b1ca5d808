// Memory whose last byte is the last of its page, with an inaccessible page behind and before. With
// FUSION_ATTENTION_READABLE_GUARDS=1 those pages may be read: emulated CPUs read the lanes that a masked load
// leaves out.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdlib>
#include <new>

namespace fusion_attention::testing {

class Guarded {
 public:
  explicit Guarded(std::size_t bytes) : page_(static_cast<std::size_t>(sysconf(_SC_PAGESIZE))) {
    const std::size_t inner = (bytes + page_ - 1) / page_ * page_;
    mapped_ = inner + 2 * page_;
    const int guard = std::getenv("FUSION_ATTENTION_READABLE_GUARDS") ? PROT_READ : PROT_NONE;
    void* p = mmap(nullptr, mapped_, guard, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    base_ = static_cast<std::byte*>(p);
    end_ = base_ + page_ + inner;
    if (inner > 0 && mprotect(base_ + page_, inner, PROT_READ | PROT_WRITE) != 0) throw std::bad_alloc();
  }
  ~Guarded() { munmap(base_, mapped_); }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;

  std::size_t size() const { return static_cast<std::size_t>(end_ - base_) - page_; }

  // The last `bytes` bytes, right before the guard; and the first byte after the guard in front.
  template <class T = std::byte>
  T* tail(std::size_t bytes) {
    return reinterpret_cast<T*>(end_ - bytes);
  }
  template <class T = std::byte>
  T* head() {
    return reinterpret_cast<T*>(base_ + page_);
  }

 private:
  std::size_t page_, mapped_ = 0;
  std::byte *base_ = nullptr, *end_ = nullptr;
};

}  // namespace fusion_attention::testing
