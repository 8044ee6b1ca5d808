#include "api/inference_operands.h"

#include <algorithm>

#include "api/lengths.h"
#include "api/refuse.h"
#include "api/stored_keys.h"

namespace fusion_attention {
namespace {

bool has_dtype(const Spelling& spelling, Element element) {
  return element == Element::float16 || element == Element::bfloat16 || element == Element::int8 ||
         (element == Element::float32 && !spelling.has_error_table);
}

void check_operand(const Spelling& spelling, const char* argument, const Array& array) {
  if (!array) refuse(argument, "None", "a tensor");
  if (has_dtype(spelling, array.element)) return;
  spelling.refuse_dtype(
      argument, array,
      spelling.has_error_table ? "int8, float16 or bfloat16" : "int8, float16, bfloat16 or float32");
}

// Keys and values that are stored as int8 or int4 have a type of their own, one for both.
void check_type_of_keys(const Spelling& spelling, const Array& query, const Array& key, const Array& value) {
  const bool quantised =
      spelling.decodes && query.element != Element::int8 && key && is_quantised(key.element);
  if (!quantised) {
    check_operand(spelling, "key", key);
    if (key.element != query.element) {
      spelling.refuse_dtype("key", key, std::string("query's dtype ") + name(query.element));
    }
  }
  if (!value) refuse("value", "None", "a tensor");
  if (value.element == key.element) return;
  if (!quantised) check_operand(spelling, "value", value);
  spelling.refuse_dtype("value", value,
                        std::string(quantised ? "key's" : "query's") + " dtype " + name(key.element));
}

void check_rank(const Spelling& spelling, const char* argument, const Array& array, Layout layout) {
  if (array.rank == rank_of(layout)) return;
  spelling.refuse_form(argument, "rank " + number(array.rank),
                       "rank " + number(rank_of(layout)) + " for input_layout " + name(layout));
}

void check_same(const char* argument, const char* what, std::int64_t given, const char* other,
                std::int64_t allowed) {
  if (given == allowed) return;
  refuse(argument, std::string(what) + " = " + number(given),
         std::string(other) + "'s " + what + " = " + number(allowed));
}

constexpr const char* kFusedLayouts =
    "BSH, BSND, BNSD, TND or NTD, BSH_BNSD, BSND_BNSD, BNSD_BSND, BSH_NBSD, BSND_NBSD, BNSD_NBSD, TND_NTD or "
    "NTD_TND";

// Which outputs a layout can be written as, beside itself.
bool transposes(Layout input, Layout output, bool extended) {
  if (input == Layout::bnsd && output == Layout::bsnd) return true;
  if (!extended) return false;
  switch (input) {
    case Layout::bsh:
    case Layout::bsnd:
      return output == Layout::bnsd || output == Layout::nbsd;
    case Layout::bnsd:
      return output == Layout::nbsd;
    case Layout::tnd:
      return output == Layout::ntd;
    case Layout::ntd:
      return output == Layout::tnd;
    default:
      return false;
  }
}

// One number per batch entry; one number is for all. torch_npu's operators read the first B of a longer list
// and take an empty one for None.
std::vector<std::int64_t> lengths_per_batch(const Spelling& spelling, const Ends& given, std::int64_t batches,
                                            std::int64_t most) {
  const auto count = given.list ? static_cast<std::int64_t>(given.list->size()) : 0;
  if (!given.list || (count == 0 && !spelling.has_error_table))
    return std::vector<std::int64_t>(static_cast<std::size_t>(batches), most);
  if (count != 1 && (count < batches || (count > batches && spelling.has_error_table))) {
    spelling.refuse_form(given.argument, number(count) + " numbers",
                         "one, or one for each of " + number(batches) + " batch entries");
  }
  std::vector<std::int64_t> lengths(given.list->begin(), given.list->begin() + std::min(count, batches));
  for (const std::int64_t length : lengths) {
    if (length < 0 || length > most)
      spelling.refuse_form(given.argument, number(length), "0 to S = " + number(most));
  }
  if (!lengths.empty()) lengths.resize(static_cast<std::size_t>(batches), lengths.front());
  return lengths;
}

}  // namespace

InferenceLayout inference_layout(const Spelling& spelling, const std::string& letters) {
  if (spelling.has_error_table) {
    if (letters == "BSH") return {Layout::bsh, Layout::bsh};
    if (letters == "BNSD") return {Layout::bnsd, Layout::bnsd};
    spelling.refuse_form("input_layout", quoted(letters), "BSH or BNSD");
  }
  const std::size_t bar = letters.find('_');
  const auto input = parse_layout(letters.substr(0, bar));
  const auto output = bar == std::string::npos ? input : parse_layout(letters.substr(bar + 1));
  const bool alone = input && bar == std::string::npos && *input != Layout::sbh && *input != Layout::nbsd;
  const bool extended = spelling.decodes && !spelling.is_incre();
  const bool known =
      alone ? *input != Layout::ntd || extended : input && output && transposes(*input, *output, extended);
  if (!known || (spelling.is_incre() && (!alone || is_packed(*input)))) {
    spelling.refuse_form("input_layout", quoted(letters),
                         spelling.is_incre() ? "BSH, BNSD or BSND"
                         : extended          ? kFusedLayouts
                                             : "BSH, BNSD, BSND, BNSD_BSND or TND");
  }
  return {*input, *output};
}

bool has_one_row(Layout layout, const TensorView& query) {
  return !is_packed(layout) && query.rows() == 1;
}

bool ignores_mode(const Spelling& spelling, const InferenceOptions& options, Layout layout,
                  const TensorView& query) {
  return spelling.decodes && has_one_row(layout, query) && !options.stored.query_rope;
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

void check_inference_operands(const Spelling& spelling, const InferenceOptions& options, const Array& query,
                              const Array& key, const Array& value, Layout layout) {
  check_operand(spelling, "query", query);
  check_type_of_keys(spelling, query, key, value);
  check_rank(spelling, "query", query, layout);
  if (options.stored.block_table) return;  // pools have layouts of their own
  check_rank(spelling, "key", key, layout);
  check_rank(spelling, "value", value, layout);
}

void read_inference_operands(const Spelling& spelling, const InferenceOptions& options, Layout layout,
                             const Array& query, const Array& key, const Array& value, Problem& problem) {
  const std::int64_t heads = options.num_heads;
  if (heads <= 0) refuse(spelling.num_heads, number(heads), "query's number of heads, 1 or more");
  if (options.num_key_value_heads < 0) {
    refuse("num_key_value_heads", number(options.num_key_value_heads),
           std::string("0 for as many as ") + spelling.num_heads + ", or a divisor of it");
  }
  const std::int64_t kv_heads = options.num_key_value_heads == 0 ? heads : options.num_key_value_heads;
  if (heads % kv_heads != 0)
    refuse("num_key_value_heads", number(kv_heads), "a divisor of " + number(heads) + " query heads");

  TensorView &q = problem.query, &k = problem.key, &v = problem.value;
  q = view_with_heads("query", query, layout, spelling.num_heads, heads);
  const StoredKeys& stored = options.stored;
  k = stored_view("key", key, layout, stored, kv_heads);
  v = stored_view("value", value, layout, stored, kv_heads);
  if (spelling.is_incre()) check_same("query", "S", q.rows(), "decoding", 1);
  check_same("key", "D", k.channels(), "query", q.channels());
  if (spelling.has_error_table) check_same("value", "D", v.channels(), "query", q.channels());
  if (!stored.block_table) check_same("key", "B", k.batches(), "query", q.batches());
  check_same("value", "B", v.batches(), "key", k.batches());
  check_same("value", "S", v.rows(), "key", k.rows());
  if (spelling.has_error_table && query.element == Element::bfloat16 && q.channels() % 16 != 0)
    refuse("query", "bfloat16 with D = " + number(q.channels()), "D a multiple of 16 for bfloat16");
}

std::vector<Sequence> inference_sequences(const Spelling& spelling, const InferenceOptions& options,
                                          Layout layout, const Problem& problem) {
  const Ends rows{spelling.actual_seq_lengths, options.actual_seq_lengths},
      keys{spelling.actual_seq_lengths_kv, options.actual_seq_lengths_kv};
  const bool paged = static_cast<bool>(options.stored.block_table);
  if (paged && (!keys.list || keys.list->empty())) {
    refuse(keys.argument, keys.list ? "an empty list" : "None",
           "the length of every sequence with block_table");
  }
  const std::int64_t most = most_keys(options.stored, problem.key);
  if (is_packed(layout)) {
    const std::int64_t total = problem.query.rows();
    if (!paged) return packed_sequences(rows, keys, total, problem.key.rows());
    std::vector<Sequence> sequences = packed_sequences(rows, rows, total, total);
    const auto counts = lengths_per_batch(spelling, keys, static_cast<std::int64_t>(sequences.size()), most);
    for (std::size_t i = 0; i < sequences.size(); ++i) sequences[i].key = 0, sequences[i].keys = counts[i];
    return sequences;
  }
  const std::int64_t batches = problem.query.batches();
  const std::optional<std::vector<std::int64_t>> all;
  const Ends none{spelling.actual_seq_lengths, all};
  const bool single = ignores_mode(spelling, options, layout, problem.query);
  const auto row_counts = lengths_per_batch(spelling, single ? none : rows, batches, problem.query.rows());
  const auto key_counts = lengths_per_batch(spelling, keys, batches, most);
  std::vector<Sequence> sequences(static_cast<std::size_t>(batches));
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    sequences[i].batch = static_cast<std::int64_t>(i);
    sequences[i].rows = row_counts[i];
    sequences[i].keys = key_counts[i];
  }
  return sequences;
}

}  // namespace fusion_attention
