// The one error of the library: which argument, what was given, what is allowed.
#pragma once

#include <stdexcept>
#include <string>
#include <utility>

namespace fusion_attention {

enum class ErrorKind {
  type,    // an argument of the wrong type (Python: TypeError)
  value,   // a value outside what is allowed (Python: RuntimeError, or the family's own type)
  form,    // a word, rank or list of the wrong form, in families that tell it from a value (ValueError)
  memory,  // the workspace could not be allocated (Python: MemoryError)
};

// Thrown before anything is read or written: outputs are untouched.
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, std::string argument, std::string given, std::string allowed)
      : std::runtime_error(argument + ": got " + given + ", allowed is " + allowed),
        kind_(kind),
        argument_(std::move(argument)),
        given_(std::move(given)),
        allowed_(std::move(allowed)) {}

  ErrorKind kind() const { return kind_; }
  const std::string& argument() const { return argument_; }
  const std::string& given() const { return given_; }
  const std::string& allowed() const { return allowed_; }

 private:
  ErrorKind kind_;
  std::string argument_, given_, allowed_;
};

}  // namespace fusion_attention
