// Reads the words of a problem's line.
#pragma once

#include <charconv>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "fusion_attention/error.h"
#include "fusion_attention/mask.h"
#include "fusion_attention/tensor.h"

namespace fusion_attention {

[[noreturn]] inline void malformed(std::string_view word, const char* allowed) {
  throw Error(ErrorKind::value, "problem line", "\"" + std::string(word) + "\"", allowed);
}

// Reads numbers off a word: "32/8", "-inf:0:3".
class Reader {
 public:
  explicit Reader(std::string_view word) : word_(word), left_(word) {}

  bool done() const { return left_.empty(); }
  bool skip(std::string_view prefix) {
    if (left_.substr(0, prefix.size()) != prefix) return false;
    left_.remove_prefix(prefix.size());
    return true;
  }
  template <class T>
  T take(const char* allowed) {
    T value{};
    const auto [stop, error] = std::from_chars(left_.data(), left_.data() + left_.size(), value);
    if (error != std::errc{}) malformed(word_, allowed);
    left_.remove_prefix(static_cast<std::size_t>(stop - left_.data()));
    return value;
  }
  std::int64_t band_end() {
    if (skip("-inf")) return -Band::kFar;
    if (skip("inf")) return Band::kFar;
    return take<std::int64_t>("lo and hi: integers, -inf or inf");
  }
  Band band(const char* separator) {
    Band band;
    band.lo = band_end();
    if (!skip(separator)) malformed(word_, "a band of at least lo and hi");
    band.hi = band_end();
    if (skip(separator)) band.prefix = take<std::int64_t>("an integer prefix");
    if (skip(separator)) band.block = take<std::int64_t>("an integer block");
    if (skip(separator)) band.reach = band_end();
    return band;
  }
  // Of the dtypes that compute.
  std::optional<Dtype> floating_dtype() {
    for (const Dtype dtype : {Dtype::float32, Dtype::float16, Dtype::bfloat16})
      if (skip(name(dtype))) return dtype;
    return std::nullopt;
  }
  std::string_view word() const { return word_; }

 private:
  std::string_view word_, left_;
};

}  // namespace fusion_attention
