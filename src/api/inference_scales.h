// What quantises and dequantises: the four legal combinations of int8 and floating operands and outputs.
#pragma once

#include <memory>
#include <vector>

#include "api/inference_spelling.h"
#include "fusion_attention/problem.h"

namespace fusion_attention {

// Of an int8 output, in float32; what Problem::output_scaling points at.
struct OutputScales {
  std::vector<float> scale, offset;
};

// The dtypes alone, which are refused before any shape is.
void check_scale_dtypes(const Spelling& spelling, const InferenceOptions& options, Element query);

// Sets problem.integer and problem.output_scaling, and with it whether the output is int8. Reads the scales;
// of arrays without memory the numbers are 1. Throws Error.
std::shared_ptr<const OutputScales> apply_scales(const Spelling& spelling, const InferenceOptions& options,
                                                 Problem& problem);

}  // namespace fusion_attention
