#include "fusion_attention/families/inference.h"

#include <algorithm>
#include <atomic>
#include <cfloat>
#include <cmath>
#include <limits>

#include "api/copies.h"
#include "api/inference_limits.h"
#include "api/inference_mask.h"
#include "api/inference_operands.h"
#include "api/inference_scales.h"
#include "api/inference_tensors.h"
#include "api/inference_windows.h"
#include "api/mask.h"
#include "api/operands.h"
#include "api/pse.h"
#include "api/quantised_query.h"
#include "api/refuse.h"
#include "api/stored_keys.h"
#include "base/half.h"
#include "base/parallel.h"
#include "fusion_attention/run.h"
#include "problem/typed.h"

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

// Each sequence has its own rows and keys of the plane over the padded tensors.
void place_pse(const Pse& pse, const TensorView& view, Problem& problem) {
  set_planes(pse, view, problem);
  for (Sequence& s : problem.sequences) s.bias.base += s.row * s.bias.row + s.key;
}

// Top left corners of planes that may be larger than the scores.
std::optional<Pse> read_pse(const Array& given, Layout layout, std::int64_t keys, Problem& problem) {
  if (!given) return std::nullopt;
  if (is_packed(layout)) refuse("pse_shift", "a tensor", "None for packed sequences");
  const std::int64_t batches = problem.query.batches(), heads = problem.query.heads(),
                     rows = problem.query.rows();
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
  place_pse(pse, view, problem);
  return pse;
}

// Of every sequence: the rows of those before it.
std::vector<std::int64_t> rows_before(const Problem& problem) {
  std::vector<std::int64_t> first(problem.sequences.size() + 1, 0);
  for (std::size_t s = 0; s < problem.sequences.size(); ++s)
    first[s + 1] = first[s] + problem.sequences[s].rows;
  return first;
}

// The statistics of the rows of sequences, one behind the other, → ln Σ exp(score) of every row of the
// tensor. `first`: rows_before.
void make_lse(const Problem& problem, const std::vector<std::int64_t>& first, float* lse) {
  const float *max = problem.statistics.max, *sum = problem.statistics.sum;
  const std::int64_t heads = problem.query.heads(), rows = problem.query.rows();
  const bool natural = problem.statistics.order == StatisticsOrder::row_major;
  constexpr float kNothing = std::numeric_limits<float>::infinity();
  std::fill_n(lse, problem.query.batches() * heads * rows, kNothing);
  const auto tasks = static_cast<std::int64_t>(problem.sequences.size()) * heads;
  parallel_for(tasks, thread_count(), [&](std::int64_t task, int) {
    const auto s = static_cast<std::size_t>(task / heads);
    const std::int64_t head = task % heads;
    const Sequence& sequence = problem.sequences[s];
    for (std::int64_t i = 0; i < sequence.rows; ++i) {
      const std::int64_t from = natural ? (first[s] + i) * heads + head
                                        : first[s] * heads + head * sequence.rows + i,
                         to = natural ? (sequence.row + i) * heads + head
                                      : (sequence.batch * heads + head) * rows + sequence.row + i;
      lse[to] = max[from] == -FLT_MAX ? kNothing : max[from] + std::log(sum[from]);
    }
  });
}

// Logits of any floating type as the core takes them.
std::vector<float> read_sink(const Array& sink, Element query, std::int64_t heads) {
  const Element element = sink.element;
  if (query == Element::int8) refuse("learnable_sink", "a tensor", "None for an int8 query");
  if (element != Element::float32 && element != Element::float16 && element != Element::bfloat16)
    refuse("learnable_sink", std::string("dtype ") + name(element), "bfloat16, float16 or float32");
  if (!has_shape(sink, {heads})) refuse("learnable_sink", shape_text(sink), shape_text(&heads, 1));
  std::vector<float> logits(static_cast<std::size_t>(heads), 0.0F);
  if (!sink.data) return logits;
  for (std::int64_t n = 0; n < heads; ++n) {
    const auto* at = static_cast<const std::byte*>(sink.data) + n * sink.stride[0] * size_of(element);
    logits[static_cast<std::size_t>(n)] = with_floating_type(dtype_of(element), [at](auto type) {
      return to_float(*reinterpret_cast<const decltype(type)*>(at));
    });
  }
  return logits;
}

bool has_elements(const TensorView& view) {
  return std::find(view.shape.begin(), view.shape.end(), 0) == view.shape.end();
}

bool has_numbers(const std::optional<std::vector<std::int64_t>>& list) {
  return list && !list->empty();
}

// Of an int8 query: the integer pipeline knows no stored keys.
void refuse_stored(const Spelling& spelling, const StoredKeys& words) {
  const std::pair<const char*, const Array*> all[] = {{"block_table", &words.block_table},
                                                      {"key_shared_prefix", &words.key_shared_prefix},
                                                      {"query_rope", &words.query_rope},
                                                      {"antiquant_scale", &words.antiquant_scale},
                                                      {"key_antiquant_scale", &words.key_antiquant_scale}};
  for (const auto& [argument, array] : all)
    if (*array) refuse(spelling.of(argument), "a tensor", "None for an int8 query");
}

struct Operands {
  const Array &query, &key, &value;
};

// Where and how the keys lie; gives query's rope part.
TensorView apply_stored(const Spelling& spelling, const InferenceOptions& options, const Operands& operands,
                        Layout layout, Problem& problem, StoredKeysMemory& memory) {
  const StoredKeys& stored = options.stored;
  if (operands.query.element == Element::int8) refuse_stored(spelling, stored);
  place_keys(spelling, stored, layout, has_numbers(options.actual_seq_lengths_kv), problem, memory);
  place_rows(stored, layout, has_numbers(options.actual_seq_lengths), problem);
  apply_prefix(stored, operands.key, operands.value, layout, problem);
  const TensorView rope = read_stored_rope(spelling, stored, operands.query, layout, problem, problem.cache);
  apply_antiquant(spelling, stored, layout, problem);
  return rope;
}

// Keys that a mask or a bias over the padded tensors has.
std::int64_t described_keys(const InferenceOptions& options, const Problem& problem) {
  std::int64_t prefix = 0, longest = 0;
  for (const Sequence& s : problem.sequences) {
    prefix = std::max(prefix, s.prefix);
    longest = std::max(longest, s.keys);
  }
  return options.stored.block_table ? longest : prefix + problem.key.rows();
}

}  // namespace

// What the caller handed over, where Problem describes a copy or has no place for it.
struct InferenceAttention::Given {
  std::optional<Pse> pse;
  Array mask;  // float16 or a tree
  bool halves = false, windows = false;
  std::shared_ptr<const OutputScales> output_scales;
  TensorView query, query_rope;  // to be joined
  QuantisedQuery quantised;      // what query is to be made of
  std::vector<float> sink;
  StoredKeysMemory memory;
  const char* without_memory = nullptr;  // what the call cannot be computed without
};

InferenceAttention::InferenceAttention(const Array& given_query, const Array& key, const Array& value,
                                       const InferenceOptions& given) {
  const InferenceOptions options = as_meant(given);
  const Spelling& spelling = spelling_of(options.interface);
  const InferenceLayout layouts = inference_layout(spelling, options.input_layout);
  const Layout layout = layouts.input;
  const Array query = meant_query(spelling, options, given_query, key, value);
  check_inference_operands(spelling, options, query, key, value, layout);
  check_numbers(spelling, options);
  check_pse_dtype(spelling, options.pse_shift, query.element);
  check_scale_dtypes(spelling, options, query.element);
  const char* without_memory = check_tensors(spelling, given_query, key, value, options);
  if (options.padding_mask) refuse("padding_mask", "a tensor", "None");

  problem_.scale = options.scale;
  read_inference_operands(spelling, options, layout, query, key, value, problem_);
  problem_.sequences = inference_sequences(spelling, options, layout, problem_);
  const auto given_now = std::make_shared<Given>();
  Given& kept = *given_now;
  given_ = given_now;
  kept.without_memory = without_memory;
  kept.query = problem_.query;
  kept.quantised = read_quantised_query(options, given_query, layout, problem_.query);
  kept.query_rope = apply_stored(spelling, options, {query, key, value}, layout, problem_, kept.memory);
  const std::int64_t keys = described_keys(options, problem_);
  apply_inference_mask(spelling, options, layout, keys, problem_);
  check_pages(options.stored, problem_);
  kept.pse = read_pse(options.pse_shift, layout, keys, problem_);
  if (options.learnable_sink) {
    kept.sink = read_sink(options.learnable_sink, query.element, problem_.query.heads());
    problem_.sink.data = kept.sink.data();
  }
  kept.output_scales = apply_scales(spelling, options, problem_);
  const bool decoding = spelling.decodes && has_one_row(layout, problem_.query);
  problem_.half_scores =
      query.element == Element::float16 && options.inner_precise % 2 == 1 && !options.pse_shift && !decoding;
  if (is_strict(options.strict)) refuse_undocumented({layouts, given_query, key, value, options, problem_});
  kept.halves = problem_.overlay && options.atten_mask.element == Element::float16;
  kept.windows = problem_.overlay && has_windows(problem_);
  if (kept.halves || options.sparse_mode == 9) kept.mask = options.atten_mask;
  if (kept.query_rope.channels() > 0) {
    problem_.query = described(problem_.query, problem_.query.channels() + kept.query_rope.channels());
  }
  const TensorView& q = problem_.query;
  output_shape_ = shape_of(layouts.output, q.batches(), q.heads(), q.rows(), problem_.value.channels());
  lse_shape_ = is_packed(layout) ? std::vector<std::int64_t>{q.rows(), q.heads(), 1}
                                 : std::vector<std::int64_t>{q.batches(), q.heads(), q.rows(), 1};
  problem_.output = view_of(contiguous_array(nullptr, output_element(), output_shape_.data(),
                                             static_cast<int>(output_shape_.size())),
                            layouts.output, q.heads());
  problem_.statistics.order = is_packed(layout) ? StatisticsOrder::row_major : StatisticsOrder::head_major;
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

void InferenceAttention::forward(void* attention_out, float* softmax_lse) const {
  const char* without_memory = given_->without_memory;
  if (!without_memory && !attention_out && has_elements(problem_.output)) without_memory = "attention_out";
  if (without_memory) refuse(without_memory, "no memory", "a pointer to its elements");
  Problem problem = problem_;
  problem.output.data = attention_out;
  Buffer part, query, mask, pse, max, sum;
  if (given_->query_rope.channels() > 0) {
    const TensorView first =
        given_->quantised ? dequantised(given_->quantised, given_->query, part) : given_->query;
    problem.query = joined(first, given_->query_rope, query);
  }
  if (given_->halves) {
    problem.overlay = mask_of_halves(given_->mask, mask);
  } else if (given_->mask) {
    problem.overlay = tree_overlay(given_->mask, problem, mask);
  } else if (given_->windows) {
    problem.overlay = window_overlay(problem_.overlay, problem, mask);
  }
  if (given_->pse) {
    TensorView view = given_->pse->view;
    if (!given_->pse->in_place()) {
      const TensorView packed = pse.contiguous(view);
      copy(view, packed);
      view = packed;
    }
    problem.bias.data = view.data;
    place_pse(*given_->pse, view, problem);
  }
  if (softmax_lse) {
    const std::int64_t rows = product({problem.query.batches(), problem.query.heads(), problem.query.rows()});
    problem.statistics.max = max.floats(rows);
    problem.statistics.sum = sum.floats(rows);
  }
  const std::vector<std::int64_t> first = softmax_lse ? rows_before(problem) : std::vector<std::int64_t>();
  if (given_->mask && !given_->halves && problem.statistics.order == StatisticsOrder::row_major) {
    run_each(problem);
  } else {
    run(problem);
  }
  if (softmax_lse) make_lse(problem, first, softmax_lse);
}

std::vector<std::string> InferenceAttention::notes() const {
  static std::atomic<bool> said_halves{false}, said_disagreement{false};
  std::vector<std::string> notes;
  if (given_->halves) {
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
