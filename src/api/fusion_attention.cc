#include "fusion_attention/families/fusion_attention.h"

#include <atomic>
#include <cmath>
#include <optional>

#include "api/copies.h"
#include "api/dropout.h"
#include "api/lengths.h"
#include "api/mask.h"
#include "api/operands.h"
#include "api/pse.h"
#include "api/refuse.h"
#include "api/sparse_mode.h"
#include "api/strict.h"
#include "fusion_attention/run.h"
#include "problem/layout.h"

namespace fusion_attention {
namespace {

constexpr std::int64_t kCopies = 8;  // of each statistic, as documented

void check_numbers(Pass pass, const FusionAttentionOptions& options) {
  if (!std::isfinite(options.scale)) {
    refuse(pass == Pass::forward ? "scale" : "scale_value", std::to_string(options.scale), "a finite number");
  }
  if (!(options.keep_prob > 0 && options.keep_prob <= 1)) {
    refuse("keep_prob", std::to_string(options.keep_prob), "above 0 and at most 1");
  }
  if (options.inner_precise < 0 || options.inner_precise > 3) {
    refuse("inner_precise", number(options.inner_precise), "0 to 3");
  }
}

StatisticsOrder statistics_order(const std::string& softmax_layout, Layout layout) {
  if (softmax_layout.empty()) return StatisticsOrder::head_major;
  if (parse_layout(softmax_layout) != Layout::tnd) {
    refuse("softmax_layout", quoted(softmax_layout), "\"\" or \"TND\"");
  }
  if (layout != Layout::tnd) {
    refuse("softmax_layout", quoted(softmax_layout), std::string("\"\" for input_layout ") + name(layout));
  }
  return StatisticsOrder::row_major;
}

std::int64_t count_scores(const Problem& problem) {
  std::int64_t total = 0;
  for (const Sequence& sequence : problem.sequences) {
    std::int64_t scores = 0;
    if (__builtin_mul_overflow(sequence.rows, sequence.keys, &scores) ||
        __builtin_mul_overflow(scores, problem.query.heads(), &scores) ||
        __builtin_add_overflow(total, scores, &total)) {
      refuse("query", "more scores than 64 bits can count", "B * N * Sq * Skv below 2^63");
    }
  }
  return total;
}

void check_sink(const Array& sink, std::int64_t heads) {
  if (sink.element != Element::float32) refuse("sink", std::string("dtype ") + name(sink.element), "float32");
  if (!has_shape(sink, {heads})) refuse("sink", shape_text(sink), shape_text(&heads, 1));
  if (!is_contiguous(sink)) refuse("sink", "strides", "a contiguous tensor");
}

bool is_prefix_without_effect(const FusionAttentionOptions& options, const std::vector<Sequence>& sequences) {
  if (!options.prefix || options.prefix->empty() || !options.atten_mask || options.sparse_mode == 6)
    return false;
  return options.sparse_mode != 5 || !has_valid_prefix(options, sequences);
}

TensorView gradient_view(void* data, const Array& of, Layout layout, const TensorView& view) {
  return view_of(contiguous_array(data, of.element, of.shape.data(), of.rank), layout, view.heads());
}

}  // namespace

// What the caller handed over, where Problem describes a copy or has no place for it.
struct FusionAttention::Given {
  Layout layout;
  Array query, key, value, query_rope, key_rope;
  TensorView query_view, key_view;  // without rope
  Rope rope;
  std::optional<Pse> pse;
  std::int64_t mode_without_mask;  // the sparse_mode that has no effect for want of a mask, or 0
  bool prefix_without_effect;
};

// Memory of one call.
struct FusionAttention::Copies {
  Buffer query, key, pse, query_gradient, key_gradient, pse_gradient;
};

FusionAttention::FusionAttention(Pass pass, const Array& query, const Array& key, const Array& value,
                                 const FusionAttentionOptions& options) {
  const Layout layout = layout_of(options.input_layout);
  check_operand("query", query, query, layout);
  check_operand("key", key, query, layout);
  check_operand("value", value, query, layout);
  check_numbers(pass, options);
  if (options.padding_mask) refuse("padding_mask", "a tensor", "None");

  problem_.pass = pass;
  problem_.scale = options.scale;
  problem_.query = query_view(query, layout, options.head_num);
  problem_.key = key_view(key, layout, problem_.query);
  problem_.value = value_view(value, layout, problem_.key);
  problem_.statistics.order = statistics_order(options.softmax_layout, layout);
  problem_.statistics.copies = kCopies;
  const TensorView& q = problem_.query;
  const std::int64_t keys = problem_.key.rows();
  problem_.sequences = layout == Layout::tnd ? packed_sequences(options, q.rows(), keys)
                                             : dense_sequences(options, layout, q.batches(), q.rows(), keys);
  numels_ = count_scores(problem_);
  apply_sparse_mode(options, layout, problem_);
  const std::optional<Pse> pse = apply_pse(options, layout, query.element, problem_);
  apply_dropout(options, layout, numels_, problem_);
  if (options.sink) {
    check_sink(options.sink, q.heads());
    problem_.sink.data = static_cast<const float*>(options.sink.data);
  }
  const Rope rope = read_rope(options.query_rope, options.key_rope, query, layout, problem_);
  if (is_strict(options.strict)) {
    refuse_undocumented(Interface::npu_fusion_attention,
                        {pass, layout, query, key, value, options, problem_});
  }
  given_ = std::make_shared<const Given>(Given{layout, query, key, value, options.query_rope,
                                               options.key_rope, problem_.query, problem_.key, rope, pse,
                                               options.atten_mask ? 0 : options.sparse_mode,
                                               is_prefix_without_effect(options, problem_.sequences)});
  if (rope) {
    problem_.query = described(problem_.query, problem_.query.channels() + rope.channels());
    problem_.key = described(problem_.key, problem_.key.channels() + rope.channels());
  }
  output_shape_ = shape_of(layout, q.batches(), q.heads(), q.rows(), problem_.value.channels());
  statistics_shape_ = layout == Layout::tnd ? std::vector{q.rows(), q.heads(), kCopies}
                                            : std::vector{q.batches(), q.heads(), q.rows(), kCopies};
  problem_.output = like_output(
      contiguous_array(nullptr, query.element, output_shape_.data(), static_cast<int>(output_shape_.size())),
      "attention_out");
}

TensorView FusionAttention::like_output(const Array& array, const char* argument) const {
  if (!array) refuse(argument, "None", "a tensor");
  if (array.element != given_->query.element) {
    refuse(argument, std::string("dtype ") + name(array.element),
           std::string("query's dtype ") + name(given_->query.element));
  }
  if (!has_shape(array, output_shape_)) {
    refuse(argument, shape_text(array),
           "attention_out's shape " + shape_text(output_shape_.data(), output_shape_.size()));
  }
  return view_of(array, given_->layout, problem_.query.heads());
}

void FusionAttention::copy_inputs(Copies& copies, bool contiguous_pse) {
  if (given_->rope) {
    problem_.query = joined(given_->query_view, given_->rope.query, copies.query);
    problem_.key = joined(given_->key_view, given_->rope.key, copies.key);
  }
  if (!given_->pse) return;
  TensorView pse = given_->pse->view;
  if (!given_->pse->in_place() || (contiguous_pse && !is_contiguous(pse))) {
    const TensorView packed = copies.pse.contiguous(pse);
    copy(pse, packed);
    pse = packed;
  }
  problem_.bias.data = pse.data;
  set_planes(*given_->pse, pse, problem_);
}

void FusionAttention::forward(void* attention_out, float* softmax_max, float* softmax_sum) {
  problem_.output.data = attention_out;
  problem_.statistics.max = softmax_max;
  problem_.statistics.sum = softmax_sum;
  Copies copies;
  copy_inputs(copies, /*contiguous_pse=*/false);
  run(problem_);
}

void FusionAttention::backward(const Array& dy, const Array& softmax_max, const Array& softmax_sum,
                               const Array& attention_in, const Gradients& gradients) {
  const Given& given = *given_;
  problem_.output_gradient = like_output(dy, "dy");
  problem_.output = like_output(attention_in, "attention_in");
  check_statistics("softmax_max", softmax_max, statistics_shape_);
  check_statistics("softmax_sum", softmax_sum, statistics_shape_);
  problem_.statistics.max = static_cast<float*>(softmax_max.data);
  problem_.statistics.sum = static_cast<float*>(softmax_sum.data);
  const bool bias_gradient = gradients.dpse != nullptr && given.pse;
  Copies copies;
  copy_inputs(copies, bias_gradient);

  const TensorView dq = gradient_view(gradients.dq, given.query, given.layout, given.query_view),
                   dk = gradient_view(gradients.dk, given.key, given.layout, given.key_view);
  problem_.query_gradient = given.rope ? copies.query_gradient.contiguous(problem_.query) : dq;
  problem_.key_gradient = given.rope ? copies.key_gradient.contiguous(problem_.key) : dk;
  problem_.value_gradient = gradient_view(gradients.dv, given.value, given.layout, problem_.value);
  problem_.sink.gradient = problem_.sink ? gradients.dsink : nullptr;
  const std::int64_t elements = problem_.bias.elements;
  const bool exact = problem_.bias.dtype == Dtype::float32;  // the sums can be written where they go
  if (bias_gradient)
    problem_.bias.gradient =
        exact ? static_cast<float*>(gradients.dpse) : copies.pse_gradient.floats(elements);
  run(problem_);
  if (bias_gradient && !exact) convert(problem_.bias.gradient, elements, problem_.bias.dtype, gradients.dpse);
  if (!given.rope) return;
  split(problem_.query_gradient, dq,
        gradient_view(gradients.dq_rope, given.query_rope, given.layout, given.query_view));
  split(problem_.key_gradient, dk,
        gradient_view(gradients.dk_rope, given.key_rope, given.layout, given.key_view));
}

std::vector<std::string> FusionAttention::notes() const {
  static std::atomic<bool> said_unmasked{false}, said_prefix{false}, said_disagreement{false};
  std::vector<std::string> notes;
  if (given_->mode_without_mask != 0 && !said_unmasked.exchange(true)) {
    notes.push_back("sparse_mode " + number(given_->mode_without_mask) +
                    " has no effect without atten_mask: attention is full, as on the hardware");
  }
  if (given_->prefix_without_effect && !said_prefix.exchange(true)) {
    notes.push_back(
        "prefix has no effect: it takes sparse_mode 6, or 5 with a number within Skv - Sq to Skv for each "
        "batch entry");
  }
  if (!said_disagreement && mask_exceeds_band(problem_) && !said_disagreement.exchange(true)) {
    notes.push_back(
        "atten_mask keeps keys that the tokens or the prefix hide; a key is seen where both agree");
  }
  return notes;
}

}  // namespace fusion_attention
