#include "api/inference_operands.h"

#include <algorithm>

#include "api/lengths.h"
#include "api/refuse.h"

namespace fusion_attention {
namespace {

bool has_dtype(const Spelling& spelling, Element element) {
  return element == Element::float16 || element == Element::bfloat16 || element == Element::int8 ||
         (element == Element::float32 && !spelling.mindspore);
}

void check_operand(const Spelling& spelling, const char* argument, const Array& array, const Array& query) {
  if (!array) refuse(argument, "None", "a tensor");
  if (!has_dtype(spelling, array.element)) {
    spelling.refuse_dtype(
        argument, array,
        spelling.mindspore ? "int8, float16 or bfloat16" : "int8, float16, bfloat16 or float32");
  }
  if (array.element != query.element)
    spelling.refuse_dtype(argument, array, std::string("query's dtype ") + name(query.element));
}

// Where heads are merged `heads` must divide the last axis; elsewhere the array says how many there are.
TensorView view_with_heads(const char* argument, const Array& array, Layout layout, const char* heads_name,
                           std::int64_t heads) {
  if (merges_heads(layout)) {
    const std::int64_t width = array.shape[2];
    if (width == 0 || width % heads != 0) {
      refuse(argument, "a last axis of " + number(width),
             std::string("a positive multiple of ") + heads_name + " " + number(heads));
    }
  }
  const TensorView view = view_of(array, layout, heads);
  if (view.heads() != heads)
    refuse(heads_name, number(heads), std::string(argument) + "'s number of heads " + number(view.heads()));
  if (view.channels() == 0) refuse(argument, shape_text(array), "a head dimension D of 1 or more");
  return view;
}

void check_same(const char* argument, const char* what, std::int64_t given, const char* other,
                std::int64_t allowed) {
  if (given == allowed) return;
  refuse(argument, std::string(what) + " = " + number(given),
         std::string(other) + "'s " + what + " = " + number(allowed));
}

// One number per batch entry; one number is for all. torch_npu's operators read the first B of a longer list
// and take an empty one for None.
std::vector<std::int64_t> lengths_per_batch(const Spelling& spelling, const Ends& given, std::int64_t batches,
                                            std::int64_t most) {
  const auto count = given.list ? static_cast<std::int64_t>(given.list->size()) : 0;
  if (!given.list || (count == 0 && !spelling.mindspore))
    return std::vector<std::int64_t>(static_cast<std::size_t>(batches), most);
  if (count != 1 && (count < batches || (count > batches && spelling.mindspore))) {
    spelling.refuse_form(given.argument, number(count) + " numbers",
                         "one, or one for each of " + number(batches) + " batch entries");
  }
  std::vector<std::int64_t> lengths(given.list->begin(), given.list->begin() + std::min(count, batches));
  for (const std::int64_t length : lengths) {
    if (length < 0 || length > most)
      spelling.refuse_form(given.argument, number(length), "0 to S = " + number(most));
  }
  lengths.resize(static_cast<std::size_t>(batches), given.list->front());
  return lengths;
}

}  // namespace

InferenceLayout inference_layout(const Spelling& spelling, const std::string& letters) {
  if (spelling.mindspore) {
    if (letters == "BSH") return {Layout::bsh, Layout::bsh};
    if (letters == "BNSD") return {Layout::bnsd, Layout::bnsd};
    spelling.refuse_form("input_layout", quoted(letters), "BSH or BNSD");
  }
  const std::size_t bar = letters.find('_');
  const auto input = parse_layout(letters.substr(0, bar));
  const auto output = bar == std::string::npos ? input : parse_layout(letters.substr(bar + 1));
  const bool transposes = input == Layout::bnsd && output == Layout::bsnd;
  if (!input || !output || *input == Layout::sbh || (input != output && !transposes) ||
      (bar != std::string::npos && !transposes)) {
    spelling.refuse_form("input_layout", quoted(letters), "BSH, BNSD, BSND, BNSD_BSND or TND");
  }
  return {*input, *output};
}

void check_inference_operands(const Spelling& spelling, const Array& query, const Array& key,
                              const Array& value, Layout layout) {
  const std::pair<const char*, const Array*> operands[] = {
      {"query", &query}, {"key", &key}, {"value", &value}};
  for (const auto& [argument, array] : operands) check_operand(spelling, argument, *array, query);
  for (const auto& [argument, array] : operands) {
    if (array->rank == rank_of(layout)) continue;
    spelling.refuse_form(argument, "rank " + number(array->rank),
                         "rank " + number(rank_of(layout)) + " for input_layout " + name(layout));
  }
}

void read_inference_operands(const Spelling& spelling, const InferenceOptions& options, Layout layout,
                             const Array& query, const Array& key, const Array& value, Problem& problem) {
  const std::int64_t heads = options.num_heads;
  if (heads <= 0) refuse(spelling.num_heads, number(heads), "query's number of heads, 1 or more");
  if (options.num_key_value_heads < 0) {
    refuse(spelling.num_key_value_heads, number(options.num_key_value_heads),
           std::string("0 for as many as ") + spelling.num_heads + ", or a divisor of it");
  }
  const std::int64_t kv_heads = options.num_key_value_heads == 0 ? heads : options.num_key_value_heads;
  if (heads % kv_heads != 0)
    refuse(spelling.num_key_value_heads, number(kv_heads), "a divisor of " + number(heads) + " query heads");

  TensorView &q = problem.query, &k = problem.key, &v = problem.value;
  q = view_with_heads("query", query, layout, spelling.num_heads, heads);
  k = view_with_heads("key", key, layout, spelling.num_key_value_heads, kv_heads);
  v = view_with_heads("value", value, layout, spelling.num_key_value_heads, kv_heads);
  check_same("key", "D", k.channels(), "query", q.channels());
  if (spelling.mindspore) check_same("value", "D", v.channels(), "query", q.channels());
  check_same("key", "B", k.batches(), "query", q.batches());
  check_same("value", "B", v.batches(), "key", k.batches());
  check_same("value", "S", v.rows(), "key", k.rows());
  if (spelling.mindspore && query.element == Element::bfloat16 && q.channels() % 16 != 0)
    refuse("query", "bfloat16 with D = " + number(q.channels()), "D a multiple of 16 for bfloat16");
}

std::vector<Sequence> inference_sequences(const Spelling& spelling, const InferenceOptions& options,
                                          Layout layout, const Problem& problem) {
  const Ends rows{spelling.actual_seq_lengths, options.actual_seq_lengths},
      keys{spelling.actual_seq_lengths_kv, options.actual_seq_lengths_kv};
  if (layout == Layout::tnd) return packed_sequences(rows, keys, problem.query.rows(), problem.key.rows());
  const std::int64_t batches = problem.query.batches();
  const auto row_counts = lengths_per_batch(spelling, rows, batches, problem.query.rows());
  const auto key_counts = lengths_per_batch(spelling, keys, batches, problem.key.rows());
  std::vector<Sequence> sequences(static_cast<std::size_t>(batches));
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    sequences[i].batch = static_cast<std::int64_t>(i);
    sequences[i].rows = row_counts[i];
    sequences[i].keys = key_counts[i];
  }
  return sequences;
}

}  // namespace fusion_attention
