#include "api/inference_scales.h"

#include <bit>
#include <cmath>

#include "api/operands.h"
#include "api/refuse.h"
#include "base/half.h"

namespace fusion_attention {
namespace {

// What the cube unit reads of a float: sign, exponent and ten bits of the fraction.
constexpr std::uint32_t kCubeBits = 0xFFFFE000;

bool holds_bits(const Spelling& spelling, Element element) {
  return element == Element::uint64 || (element == Element::int64 && !spelling.has_error_table);
}

void check_rank(const char* argument, const Array& array) {
  if (array.rank > Array::kMaxRank) refuse(argument, shape_text(array), "at most 8 axes");
}

void check_dequantiser(const Spelling& spelling, const char* argument, const Array& array) {
  check_rank(argument, array);
  if (!array || array.element == Element::float32 || holds_bits(spelling, array.element)) return;
  spelling.refuse_dtype(argument, array, "uint64 or float32");
}

void check_quantiser(const Spelling& spelling, const char* argument, const Array& array, Element query) {
  check_rank(argument, array);
  if (!array || array.element == Element::float32) return;
  if (array.element == Element::bfloat16 && query == Element::bfloat16) return;
  spelling.refuse_dtype(argument, array, "float32, or bfloat16 with a bfloat16 query");
}

void check_one(const char* argument, const Array& array) {
  if (count(array) != 1) refuse(argument, shape_text(array), "one element, [1]");
}

void check_finite(const char* argument, float value) {
  if (!std::isfinite(value)) refuse(argument, std::to_string(value), "a finite number");
}

float element_at(const Array& array, std::int64_t place) {
  if (array.element == Element::bfloat16) return to_float(static_cast<const bf16*>(array.data)[place]);
  return static_cast<const float*>(array.data)[place];
}

float read_dequantiser(const char* argument, const Array& array) {
  check_one(argument, array);
  if (!array.data) return 1;
  const float value =
      array.element == Element::float32
          ? *static_cast<const float*>(array.data)
          : std::bit_cast<float>(static_cast<std::uint32_t>(*static_cast<const std::uint64_t*>(array.data)) &
                                 kCubeBits);
  check_finite(argument, value);
  return value;
}

// In the order of the last axis first, whatever the strides.
std::vector<float> read_quantiser(const Array& array) {
  const std::int64_t numbers = count(array);
  std::vector<float> values(static_cast<std::size_t>(numbers), 1.0F);
  if (!array.data) return values;
  for (std::int64_t i = 0; i < numbers; ++i) {
    std::int64_t rest = i, place = 0;
    for (int axis = array.rank - 1; axis >= 0; --axis) {
      const auto a = static_cast<std::size_t>(axis);
      place += rest % array.shape[a] * array.stride[a];
      rest /= array.shape[a];
    }
    values[static_cast<std::size_t>(i)] = element_at(array, place);
  }
  return values;
}

void check_absent(const char* argument, const Array& array, const std::string& allowed) {
  if (array) refuse(argument, "a tensor", allowed);
}

void check_channels(const Spelling& spelling, const Array& scale, const Problem& problem) {
  const std::int64_t numbers = count(scale), depth = problem.value.channels(),
                     channels = problem.query.heads() * depth;
  if (numbers != 1 && numbers != channels) {
    refuse(spelling.quant_scale2, shape_text(scale), "one element, or N * D = " + number(channels));
  }
  if (spelling.has_error_table && numbers != 1 && depth % 32 != 0) {
    refuse(spelling.quant_scale2, shape_text(scale) + " with D = " + number(depth),
           "one element, or D a multiple of 32");
  }
}

void apply_integer(const Spelling& spelling, const InferenceOptions& options, Problem& problem) {
  const std::pair<const char*, const Array*> scales[] = {{spelling.deq_scale1, &options.deq_scale1},
                                                         {"quant_scale1", &options.quant_scale1},
                                                         {spelling.deq_scale2, &options.deq_scale2}};
  for (const auto& [argument, array] : scales)
    if (!*array) refuse(argument, "None", "a tensor for int8 query, key and value");
  check_one("quant_scale1", options.quant_scale1);
  problem.integer.score_scale = read_dequantiser(spelling.deq_scale1, options.deq_scale1);
  problem.integer.weight_scale = read_quantiser(options.quant_scale1).front();
  problem.integer.value_scale = read_dequantiser(spelling.deq_scale2, options.deq_scale2);
  check_finite("quant_scale1", problem.integer.weight_scale);
}

}  // namespace

void check_scale_dtypes(const Spelling& spelling, const InferenceOptions& options, Element query) {
  check_dequantiser(spelling, spelling.deq_scale1, options.deq_scale1);
  check_dequantiser(spelling, spelling.deq_scale2, options.deq_scale2);
  const Array &first = options.deq_scale1, &second = options.deq_scale2;
  if (first && second && first.element != second.element) {
    spelling.refuse_dtype(spelling.deq_scale2, second,
                          std::string(spelling.deq_scale1) + "'s dtype " + name(first.element));
  }
  check_rank("quant_scale1", options.quant_scale1);
  if (options.quant_scale1 && options.quant_scale1.element != Element::float32)
    spelling.refuse_dtype("quant_scale1", options.quant_scale1, "float32");
  check_quantiser(spelling, spelling.quant_scale2, options.quant_scale2, query);
  check_quantiser(spelling, spelling.quant_offset2, options.quant_offset2, query);
  const Array &scale = options.quant_scale2, &offset = options.quant_offset2;
  if (scale && offset && scale.element != offset.element) {
    spelling.refuse_dtype(spelling.quant_offset2, offset,
                          std::string(spelling.quant_scale2) + "'s dtype " + name(scale.element));
  }
}

std::shared_ptr<const OutputScales> apply_scales(const Spelling& spelling, const InferenceOptions& options,
                                                 Problem& problem) {
  if (problem.query.dtype == Dtype::int8) {
    apply_integer(spelling, options, problem);
  } else {
    constexpr const char* kOnlyInteger = "None for floating point query, key and value";
    check_absent(spelling.deq_scale1, options.deq_scale1, kOnlyInteger);
    check_absent("quant_scale1", options.quant_scale1, kOnlyInteger);
    check_absent(spelling.deq_scale2, options.deq_scale2, kOnlyInteger);
  }
  if (!options.quant_scale2) {
    check_absent(spelling.quant_offset2, options.quant_offset2,
                 std::string("None without ") + spelling.quant_scale2);
    return nullptr;
  }
  if (problem.query.dtype == Dtype::float32)
    refuse(spelling.quant_scale2, "a tensor", "None for a float32 query");
  check_channels(spelling, options.quant_scale2, problem);
  const std::int64_t numbers = count(options.quant_scale2);
  if (options.quant_offset2 && count(options.quant_offset2) != numbers) {
    refuse(spelling.quant_offset2, shape_text(options.quant_offset2),
           std::string(spelling.quant_scale2) + "'s shape " + shape_text(options.quant_scale2));
  }
  const auto scales = std::make_shared<const OutputScales>(
      OutputScales{read_quantiser(options.quant_scale2),
                   options.quant_offset2 ? read_quantiser(options.quant_offset2) : std::vector<float>()});
  problem.output_scaling.scale = scales->scale.data();
  problem.output_scaling.offset = scales->offset.empty() ? nullptr : scales->offset.data();
  problem.output_scaling.channels = numbers;
  return scales;
}

}  // namespace fusion_attention
