#include "fusion_attention/families/inference.h"

#include <atomic>
#include <cfloat>
#include <cmath>
#include <limits>

#include "api/copies.h"
#include "api/inference_limits.h"
#include "api/inference_mask.h"
#include "api/inference_operands.h"
#include "api/inference_scales.h"
#include "api/mask.h"
#include "api/pse.h"
#include "api/refuse.h"
#include "base/parallel.h"
#include "fusion_attention/run.h"

namespace fusion_attention {
namespace {

void check_numbers(const Spelling& spelling, const InferenceOptions& options) {
  if (!std::isfinite(options.scale)) refuse(spelling.scale, std::to_string(options.scale), "a finite number");
  if (options.inner_precise < 0 || options.inner_precise > 3)
    refuse("inner_precise", number(options.inner_precise), "0 to 3");
}

// torch_npu's operator has no inner_precise; its modes 10 to 14 are 0 to 4 in high precision.
InferenceOptions as_meant(const InferenceOptions& given) {
  InferenceOptions options = given;
  if (given.interface == Interface::npu_prompt_flash_attention && given.sparse_mode >= 10 &&
      given.sparse_mode <= 14) {
    options.sparse_mode -= 10;
    options.inner_precise = 0;
  }
  return options;
}

Element pse_element(Element query) {
  return query == Element::int8 ? Element::float16 : query;
}

void check_pse_dtype(const Spelling& spelling, const Array& pse, Element query) {
  if (!pse || pse.element == pse_element(query)) return;
  spelling.refuse_dtype("pse_shift", pse,
                        std::string(name(pse_element(query))) + " with a query of " + name(query));
}

// Top left corners of planes that may be larger than the scores.
std::optional<Pse> read_pse(const Array& given, Layout layout, Problem& problem) {
  if (!given) return std::nullopt;
  if (layout == Layout::tnd) refuse("pse_shift", "a tensor", "None for input_layout TND");
  const std::int64_t batches = problem.query.batches(), heads = problem.query.heads(),
                     rows = problem.query.rows(), keys = problem.key.rows();
  const bool fits = given.rank == 4 && (given.shape[0] == 1 || given.shape[0] == batches) &&
                    given.shape[1] == heads && given.shape[2] >= rows && given.shape[3] >= keys;
  if (!fits) {
    refuse("pse_shift", shape_text(given),
           "[1 or " + number(batches) + ", " + number(heads) + ", " + number(rows) + " or more, " +
               number(keys) + " or more]");
  }
  TensorView view{.data = given.data};
  view.dtype = given.element == Element::float32    ? Dtype::float32
               : given.element == Element::bfloat16 ? Dtype::bfloat16
                                                    : Dtype::float16;
  for (std::size_t axis = 0; axis < 4; ++axis)
    view.shape[axis] = given.shape[axis], view.stride[axis] = given.stride[axis];
  problem.bias.kind = BiasKind::dense;
  problem.bias.dtype = view.dtype;
  const Pse pse{.view = view};
  set_planes(pse, view, problem);
  return pse;
}

// max and sum of every row → ln Σ exp(score).
void make_lse(const float* max, const float* sum, std::int64_t rows, float* lse) {
  constexpr std::int64_t kChunk = 4096;
  parallel_for((rows + kChunk - 1) / kChunk, thread_count(), [&](std::int64_t chunk, int) {
    for (std::int64_t i = chunk * kChunk; i < std::min((chunk + 1) * kChunk, rows); ++i)
      lse[i] = max[i] == -FLT_MAX ? std::numeric_limits<float>::infinity() : max[i] + std::log(sum[i]);
  });
}

}  // namespace

// What the caller handed over, where Problem describes a copy or has no place for it.
struct InferenceAttention::Given {
  std::optional<Pse> pse;
  Array mask;  // float16 alone
  std::shared_ptr<const OutputScales> output_scales;
};

InferenceAttention::InferenceAttention(const Array& query, const Array& key, const Array& value,
                                       const InferenceOptions& given) {
  const InferenceOptions options = as_meant(given);
  const Spelling& spelling = spelling_of(options.interface);
  const InferenceLayout layouts = inference_layout(spelling, options.input_layout);
  const Layout layout = layouts.input;
  check_inference_operands(spelling, query, key, value, layout);
  check_numbers(spelling, options);
  check_pse_dtype(spelling, options.pse_shift, query.element);
  check_scale_dtypes(spelling, options, query.element);
  if (options.padding_mask) refuse("padding_mask", "a tensor", "None");

  problem_.scale = options.scale;
  read_inference_operands(spelling, options, layout, query, key, value, problem_);
  problem_.sequences = inference_sequences(spelling, options, layout, problem_);
  apply_inference_mask(spelling, options, layout, problem_.key.rows(), problem_);
  const std::optional<Pse> pse = read_pse(options.pse_shift, layout, problem_);
  const auto output_scales = apply_scales(spelling, options, problem_);
  problem_.half_scores =
      query.element == Element::float16 && options.inner_precise % 2 == 1 && !options.pse_shift;
  if (is_strict(options.strict)) refuse_undocumented({layouts, query, key, value, options, problem_});
  const bool halves = problem_.overlay && options.atten_mask.element == Element::float16;
  given_ = std::make_shared<const Given>(Given{pse, halves ? options.atten_mask : Array{}, output_scales});

  const TensorView& q = problem_.query;
  output_shape_ = shape_of(layouts.output, q.batches(), q.heads(), q.rows(), problem_.value.channels());
  lse_shape_ = layout == Layout::tnd ? std::vector<std::int64_t>{q.rows(), q.heads(), 1}
                                     : std::vector<std::int64_t>{q.batches(), q.heads(), q.rows(), 1};
  problem_.output = view_of(contiguous_array(nullptr, output_element(), output_shape_.data(),
                                             static_cast<int>(output_shape_.size())),
                            layouts.output, q.heads());
  problem_.statistics.order =
      layout == Layout::tnd ? StatisticsOrder::row_major : StatisticsOrder::head_major;
  problem_.statistics.copies = 1;
}

Element InferenceAttention::output_element() const {
  if (problem_.output_scaling) return Element::int8;
  switch (problem_.query.dtype) {
    case Dtype::float32:
      return Element::float32;
    case Dtype::bfloat16:
      return Element::bfloat16;
    default:
      return Element::float16;
  }
}

void InferenceAttention::forward(void* attention_out, float* softmax_lse) {
  problem_.output.data = attention_out;
  Buffer mask, pse, statistics;
  if (given_->mask) problem_.overlay = mask_of_halves(given_->mask, mask);
  if (given_->pse) {
    TensorView view = given_->pse->view;
    if (!given_->pse->in_place()) {
      const TensorView packed = pse.contiguous(view);
      copy(view, packed);
      view = packed;
    }
    problem_.bias.data = view.data;
    set_planes(*given_->pse, view, problem_);
  }
  const std::int64_t rows = problem_.query.batches() * problem_.query.heads() * problem_.query.rows();
  if (softmax_lse) {
    problem_.statistics.max = softmax_lse;
    problem_.statistics.sum = statistics.floats(rows);
  }
  run(problem_);
  if (softmax_lse) make_lse(problem_.statistics.max, problem_.statistics.sum, rows, softmax_lse);
}

std::vector<std::string> InferenceAttention::notes() const {
  static std::atomic<bool> said_halves{false}, said_disagreement{false};
  std::vector<std::string> notes;
  if (given_->mask) {
    if (!said_halves.exchange(true))
      notes.push_back(
          "a float16 mask will no longer be supported, its document says; bool, int8 and uint8 are");
    return notes;  // the bytes that it became are gone
  }
  if (!said_disagreement && mask_exceeds_band(problem_) && !said_disagreement.exchange(true))
    notes.push_back(
        "the mask keeps keys that pre_tokens and next_tokens hide; a key is seen where both agree");
  return notes;
}

}  // namespace fusion_attention
