#include "api/refuse.h"

namespace fusion_attention {

std::string shape_text(const std::int64_t* shape, std::size_t rank) {
  std::string text = "[";
  for (std::size_t axis = 0; axis < rank; ++axis) {
    if (axis > 0) text += ", ";
    text += std::to_string(shape[axis]);
  }
  return text + "]";
}

std::string shape_text(const Array& array) {
  if (!array) return "None";
  if (array.rank > Array::kMaxRank) return "a tensor of rank " + std::to_string(array.rank);
  return shape_text(array.shape.data(), static_cast<std::size_t>(array.rank));
}

std::string number(std::int64_t value) {
  return std::to_string(value);
}

std::string quoted(const std::string& text) {
  constexpr std::size_t kLongest = 24;
  std::string line = text.size() > kLongest ? text.substr(0, kLongest) + "..." : text;
  for (char& c : line) {
    if (c == '\n' || c == '\r') c = ' ';
  }
  return '"' + line + '"';
}

void refuse(const char* argument, const std::string& given, const std::string& allowed) {
  throw Error(ErrorKind::value, argument, given, allowed);
}

void refuse_type(const char* argument, const std::string& given, const std::string& allowed) {
  throw Error(ErrorKind::type, argument, given, allowed);
}

}  // namespace fusion_attention
