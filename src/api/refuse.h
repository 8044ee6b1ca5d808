// The sentences of api/: how given things are written, and the throw.
#pragma once

#include <cstdint>
#include <string>

#include "fusion_attention/error.h"
#include "fusion_attention/families/array.h"

namespace fusion_attention {

std::string shape_text(const Array& array);  // "[2, 3, 8]"
std::string shape_text(const std::int64_t* shape, std::size_t rank);
std::string number(std::int64_t value);
std::string quoted(const std::string& text);  // "BSH", in quotation marks; long texts are cut

[[noreturn]] void refuse(const char* argument, const std::string& given, const std::string& allowed);
[[noreturn]] void refuse_type(const char* argument, const std::string& given, const std::string& allowed);

}  // namespace fusion_attention
