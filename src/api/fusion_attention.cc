#include "fusion_attention/families/fusion_attention.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "api/lengths.h"
#include "api/refuse.h"
#include "api/sparse_mode.h"
#include "fusion_attention/run.h"
#include "problem/layout.h"

namespace fusion_attention {
namespace {

constexpr std::int64_t kCopies = 8;  // of each statistic, as documented

bool is_floating(Element element) {
  return element == Element::float32 || element == Element::float16 || element == Element::bfloat16;
}

Layout layout_of(const std::string& letters) {
  const std::optional<Layout> layout = parse_layout(letters);
  if (!layout) refuse("input_layout", quoted(letters), "BSH, SBH, BSND, BNSD or TND");
  return *layout;
}

void check_operand(const char* argument, const Array& array, const Array& query, Layout layout) {
  if (!array) refuse(argument, "None", "a tensor");
  if (!is_floating(array.element)) {
    refuse(argument, std::string("dtype ") + name(array.element), "float32, float16 or bfloat16");
  }
  if (array.rank != rank_of(layout)) {
    refuse(argument, "rank " + number(array.rank),
           "rank " + number(rank_of(layout)) + " for input_layout " + name(layout));
  }
  if (array.element != query.element) {
    refuse(argument, std::string("dtype ") + name(array.element),
           std::string("query's dtype ") + name(query.element));
  }
}

TensorView query_view(const Array& query, Layout layout, std::int64_t head_num) {
  const std::int64_t width = query.shape[static_cast<std::size_t>(query.rank - 1)];
  if (head_num <= 0) refuse("head_num", number(head_num), "query's number of heads, 1 or more");
  if (merges_heads(layout) && (width < head_num || width % head_num != 0)) {
    refuse("head_num", number(head_num), "a divisor of query's last axis " + number(width));
  }
  const TensorView view = view_of(query, layout, head_num);
  if (view.heads() != head_num)
    refuse("head_num", number(head_num), "query's number of heads " + number(view.heads()));
  if (view.channels() == 0) refuse("query", shape_text(query), "a head dimension D of 1 or more");
  return view;
}

// Where heads are merged, the key's width and D give its number of heads.
TensorView key_view(const Array& key, Layout layout, const TensorView& query) {
  std::int64_t heads = 0;
  if (merges_heads(layout)) {
    const std::int64_t width = key.shape[2], depth = query.channels();
    if (width == 0 || width % depth != 0) {
      refuse("key", "a last axis of " + number(width), "a positive multiple of D = " + number(depth));
    }
    heads = width / depth;
  }
  const TensorView view = view_of(key, layout, heads);
  if (view.channels() != query.channels()) {
    refuse("key", "D = " + number(view.channels()), "query's D = " + number(query.channels()));
  }
  if (view.batches() != query.batches()) {
    refuse("key", "a batch of " + number(view.batches()), "query's batch of " + number(query.batches()));
  }
  if (view.heads() == 0 || query.heads() % view.heads() != 0) {
    refuse("key", number(view.heads()) + " heads",
           "a divisor of query's " + number(query.heads()) + " heads");
  }
  return view;
}

TensorView value_view(const Array& value, Layout layout, const TensorView& key) {
  if (merges_heads(layout)) {
    const std::int64_t width = value.shape[2];
    if (width == 0 || width % key.heads() != 0) {
      refuse("value", "a last axis of " + number(width),
             "a positive multiple of key's " + number(key.heads()) + " heads");
    }
  }
  const TensorView view = view_of(value, layout, key.heads());
  if (view.channels() == 0) refuse("value", shape_text(value), "a head dimension of 1 or more");
  for (const auto& [axis, what] :
       {std::pair<std::size_t, const char*>{0, "batch"}, {1, "number of heads"}, {2, "length"}}) {
    if (view.shape[axis] != key.shape[axis]) {
      refuse("value", std::string("a ") + what + " of " + number(view.shape[axis]),
             std::string("key's ") + what + " of " + number(key.shape[axis]));
    }
  }
  return view;
}

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

void check_pse_type(const FusionAttentionOptions& options) {
  if (options.pse_type < 0 || options.pse_type > 3) refuse("pse_type", number(options.pse_type), "0 to 3");
  if (!options.pse && options.pse_type != 1)
    refuse("pse_type", number(options.pse_type), "1 where pse is None");
}

// What the documents allow and a later release builds: refused by name, never ignored.
void refuse_what_is_not_built(const FusionAttentionOptions& options) {
  const std::pair<const char*, bool> given[] = {
      {"pse", static_cast<bool>(options.pse)},
      {"query_rope", static_cast<bool>(options.query_rope)},
      {"key_rope", static_cast<bool>(options.key_rope)},
      {"sink", static_cast<bool>(options.sink)},
      {"dropout_mask", static_cast<bool>(options.dropout_mask)},
      {"q_start_idx", options.q_start_idx.has_value()},
      {"kv_start_idx", options.kv_start_idx.has_value()},
  };
  for (const auto& [argument, is_given] : given) {
    if (is_given) refuse_until_later(argument, "a value", "None");
  }
  if (options.keep_prob < 1) refuse_until_later("keep_prob", std::to_string(options.keep_prob), "1");
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

bool has_shape(const Array& array, const std::vector<std::int64_t>& shape) {
  return array.rank == static_cast<int>(shape.size()) &&
         std::equal(shape.begin(), shape.end(), array.shape.begin());
}

void check_statistics(const char* argument, const Array& array, const std::vector<std::int64_t>& shape) {
  if (!array) refuse(argument, "None", "the tensor that the forward returned");
  if (array.element != Element::float32)
    refuse(argument, std::string("dtype ") + name(array.element), "float32");
  if (!has_shape(array, shape)) {
    refuse(argument, shape_text(array), shape_text(shape.data(), shape.size()));
  }
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return;  // nothing to be contiguous about
  const Array packed = contiguous_array(array.data, array.element, array.shape.data(), array.rank);
  for (std::size_t axis = 0; axis < shape.size(); ++axis) {
    if (shape[axis] > 1 && array.stride[axis] != packed.stride[axis])
      refuse(argument, "strides", "a contiguous tensor");
  }
}

}  // namespace

FusionAttention::FusionAttention(Pass pass, const Array& query, const Array& key, const Array& value,
                                 const FusionAttentionOptions& options)
    : query_(query),
      key_(key),
      value_(value),
      input_layout_(options.input_layout),
      sparse_mode_(options.sparse_mode),
      masked_(options.atten_mask) {
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
  check_pse_type(options);
  apply_sparse_mode(options, layout, problem_);
  refuse_what_is_not_built(options);

  numels_ = count_scores(problem_);
  output_shape_ = shape_of(layout, q.batches(), q.heads(), q.rows(), problem_.value.channels());
  statistics_shape_ = layout == Layout::tnd ? std::vector{q.rows(), q.heads(), kCopies}
                                            : std::vector{q.batches(), q.heads(), q.rows(), kCopies};
  problem_.output = like_output(
      contiguous_array(nullptr, query.element, output_shape_.data(), static_cast<int>(output_shape_.size())),
      "attention_out");
}

TensorView FusionAttention::like_output(const Array& array, const char* argument) const {
  if (!array) refuse(argument, "None", "a tensor");
  if (array.element != query_.element) {
    refuse(argument, std::string("dtype ") + name(array.element),
           std::string("query's dtype ") + name(query_.element));
  }
  if (!has_shape(array, output_shape_)) {
    refuse(argument, shape_text(array),
           "attention_out's shape " + shape_text(output_shape_.data(), output_shape_.size()));
  }
  return view_of(array, layout_of(input_layout_), problem_.query.heads());
}

void FusionAttention::forward(void* attention_out, float* softmax_max, float* softmax_sum) {
  problem_.output.data = attention_out;
  problem_.statistics.max = softmax_max;
  problem_.statistics.sum = softmax_sum;
  run(problem_);
}

void FusionAttention::backward(const Array& dy, const Array& softmax_max, const Array& softmax_sum,
                               const Array& attention_in, void* dq, void* dk, void* dv) {
  problem_.output_gradient = like_output(dy, "dy");
  problem_.output = like_output(attention_in, "attention_in");
  check_statistics("softmax_max", softmax_max, statistics_shape_);
  check_statistics("softmax_sum", softmax_sum, statistics_shape_);
  problem_.statistics.max = static_cast<float*>(softmax_max.data);
  problem_.statistics.sum = static_cast<float*>(softmax_sum.data);
  const Layout layout = layout_of(input_layout_);
  const auto gradient = [layout](void* data, const Array& of, const TensorView& view) {
    return view_of(contiguous_array(data, of.element, of.shape.data(), of.rank), layout, view.heads());
  };
  problem_.query_gradient = gradient(dq, query_, problem_.query);
  problem_.key_gradient = gradient(dk, key_, problem_.key);
  problem_.value_gradient = gradient(dv, value_, problem_.value);
  run(problem_);
}

std::vector<std::string> FusionAttention::notes() const {
  static std::atomic<bool> said_unmasked{false}, said_disagreement{false};
  std::vector<std::string> notes;
  if (!masked_ && sparse_mode_ != 0 && !said_unmasked.exchange(true)) {
    notes.push_back("sparse_mode " + number(sparse_mode_) +
                    " has no effect without atten_mask: attention is full, as on the hardware");
  }
  if (!said_disagreement && mask_exceeds_band(problem_) && !said_disagreement.exchange(true)) {
    notes.push_back("atten_mask keeps keys that the tokens hide; a key is seen where both agree");
  }
  return notes;
}

}  // namespace fusion_attention
