#include "api/pse.h"

#include <algorithm>
#include <array>

#include "api/refuse.h"

namespace fusion_attention {
namespace {

constexpr std::int64_t kLastRows = 1024;  // H of the compressed forms BNHS and 1NHS

bool is_slope(const FusionAttentionOptions& options) {
  return options.pse_type == 2 || options.pse_type == 3;
}

// The mode that has an effect: without atten_mask none has (docs/differences.md, 2).
std::int64_t mode_of(const FusionAttentionOptions& options) {
  return options.atten_mask ? options.sparse_mode : 0;
}

std::int64_t start(const char* argument, const std::vector<std::int64_t>& numbers) {
  if (numbers.size() != 1)
    refuse(argument, number(static_cast<std::int64_t>(numbers.size())) + " numbers", "one");
  constexpr std::int64_t kFurthest = Band::kFar / 2;
  if (numbers[0] < -kFurthest || numbers[0] > kFurthest)
    refuse(argument, number(numbers[0]), "a position within 2^39 of 0");
  return numbers[0];
}

// (j + kv0) − (i + q0) is j − i + this. One start alone has no meaning.
std::int64_t shift_of(const FusionAttentionOptions& options) {
  const auto given = [](const auto& list) { return list && !list->empty(); };
  if (given(options.q_start_idx) != given(options.kv_start_idx)) {
    refuse(given(options.q_start_idx) ? "kv_start_idx" : "q_start_idx", "None",
           "one number where the other start is given");
  }
  if (!given(options.q_start_idx)) return 0;
  const std::int64_t shift =
      start("kv_start_idx", *options.kv_start_idx) - start("q_start_idx", *options.q_start_idx);
  if (shift != 0 && !is_slope(options)) {
    refuse("q_start_idx", number(options.q_start_idx->front()) + " with pse_type " + number(options.pse_type),
           "a start other than kv_start_idx only for pse_type 2 or 3");
  }
  return shift;
}

void check_type_and_mode(const FusionAttentionOptions& options, Element query) {
  const Element element = options.pse.element;
  if (is_slope(options)) {
    if (element != Element::float32)
      refuse("pse", std::string("dtype ") + name(element),
             "float32 for pse_type " + number(options.pse_type));
  } else if (element != query) {
    refuse("pse", std::string("dtype ") + name(element), std::string("query's dtype ") + name(query));
  }
  const std::int64_t mode = mode_of(options);
  if (mode == 7) refuse("pse", "a tensor", "None for sparse_mode 7");
  if (mode == 8 && !is_slope(options)) refuse("pse", "a tensor", "pse_type 2 or 3 for sparse_mode 8");
}

// How many entries the first axis may have beside 1.
std::int64_t batches_of(Layout layout, const Problem& problem) {
  return layout == Layout::tnd ? static_cast<std::int64_t>(problem.sequences.size())
                               : problem.query.batches();
}

TensorView view_of_pse(const Array& pse, Dtype dtype) {
  TensorView view{.data = pse.data, .dtype = dtype, .shape = {1, 1, 1, 1}};
  for (int axis = 0; axis < pse.rank; ++axis) {
    const auto from = static_cast<std::size_t>(axis), to = static_cast<std::size_t>(4 - pse.rank + axis);
    view.shape[to] = pse.shape[from], view.stride[to] = pse.stride[from];
  }
  return view;
}

Pse read_slopes(const FusionAttentionOptions& options, Layout layout, const Problem& problem) {
  const Array& given = options.pse;
  const std::int64_t heads = problem.query.heads(), batches = batches_of(layout, problem);
  const bool fits = (given.rank == 1 && given.shape[0] == heads) ||
                    (given.rank == 2 && given.shape[0] == batches && given.shape[1] == heads);
  if (!fits) {
    refuse("pse", shape_text(given),
           "[" + number(heads) + "] or [" + number(batches) + ", " + number(heads) + "] for pse_type " +
               number(options.pse_type));
  }
  TensorView view = view_of_pse(given, Dtype::float32);
  view.shape = {view.shape[2], heads, 1, 1};
  view.stride = {view.stride[2], view.stride[3], 0, 0};
  return {.view = view};
}

// The last rows of a bias of the distance alone stand for all of it only where no row sees past itself.
void check_compressed(const Array& pse, Problem& problem) {
  for (Sequence& sequence : problem.sequences) {
    if (sequence.rows != sequence.keys) {
      refuse("pse", shape_text(pse),
             "its last 1024 rows only where Sq = Skv (Sq = " + number(sequence.rows) +
                 ", Skv = " + number(sequence.keys) + ")");
    }
    if (sequence.rows == 1) sequence.band.hi = 0;  // the one key is the row's own
    if (sequence.rows > 0 && (sequence.band.hi > 0 || sequence.band.prefix > 1))
      refuse("pse", shape_text(pse), "its last 1024 rows only under a causal mask");
  }
}

Pse read_flat(const Array& given, const Problem& problem) {
  std::int64_t scores = 0, keys = 0;
  for (const Sequence& sequence : problem.sequences) {
    scores += sequence.rows * sequence.keys;  // count_scores has seen that it does not overflow
    keys += sequence.keys;
  }
  const std::int64_t heads = problem.query.heads(), length = given.shape[0];
  if (length != heads * scores && length != heads * keys) {
    refuse("pse", shape_text(given),
           "[" + number(heads * scores) + "] = N * sum(sq * skv) or [" + number(heads * keys) +
               "] = N * sum(skv)");
  }
  Pse pse{.view = view_of_pse(given, problem.query.dtype)};
  pse.blocks = length == heads * scores ? Pse::Blocks::all_rows : Pse::Blocks::one_row;
  return pse;
}

bool is_compressed(const Array& pse, Layout layout, const Problem& problem) {
  return pse.rank == 4 && pse.shape[2] == kLastRows &&
         (layout == Layout::tnd || problem.query.rows() > kLastRows);
}

std::int64_t longest_keys(const Problem& problem) {
  std::int64_t keys = 0;
  for (const Sequence& sequence : problem.sequences) keys = std::max(keys, sequence.keys);
  return keys;
}

Pse read_bias(const Array& given, Layout layout, Problem& problem) {
  const bool packed = layout == Layout::tnd;
  if (packed && given.rank == 1) return read_flat(given, problem);
  const bool compressed = is_compressed(given, layout, problem);
  const std::int64_t batches = batches_of(layout, problem), heads = problem.query.heads(),
                     rows = problem.query.rows(), keys = packed ? longest_keys(problem) : problem.key.rows();
  const auto one_or = [&given](std::size_t axis, std::int64_t size) {
    return given.shape[axis] == 1 || given.shape[axis] == size;
  };
  const bool fits = given.rank == 4 && one_or(0, batches) && one_or(1, heads) &&
                    (compressed || (!packed && one_or(2, rows))) && given.shape[3] == keys;
  if (!fits) {
    const std::string front = "[1 or " + number(batches) + ", 1 or " + number(heads) + ", ";
    refuse("pse", shape_text(given),
           packed ? "one axis, or " + front + "1024, " + number(keys) + "] (the longest key sequence)"
                  : front + "1 or " + number(rows) + (rows > kLastRows ? " or 1024, " : ", ") + number(keys) +
                        "]");
  }
  if (compressed) {
    check_compressed(given, problem);
    problem.bias.last_rows = kLastRows;
  }
  return {.view = view_of_pse(given, problem.query.dtype)};
}

// Elements from the first to past the last.
std::int64_t extent(const TensorView& view) {
  std::int64_t last = 0;
  for (std::size_t axis = 0; axis < 4; ++axis) {
    if (view.shape[axis] == 0) return 0;
    last += (view.shape[axis] - 1) * view.stride[axis];
  }
  return last + 1;
}

}  // namespace

bool Pse::in_place() const {
  return view.shape[3] <= 1 || view.stride[3] == 1;
}

void set_planes(const Pse& pse, const TensorView& view, Problem& problem) {
  const std::int64_t heads = problem.query.heads();
  const auto step = [&view](std::size_t axis) { return view.shape[axis] == 1 ? 0 : view.stride[axis]; };
  std::int64_t base = 0, index = 0;  // of the batch entry or packed sequence
  for (Sequence& sequence : problem.sequences) {
    if (pse.blocks == Pse::Blocks::none) {
      sequence.bias = {index * step(0), step(1), step(2)};
    } else {
      const std::int64_t rows = pse.blocks == Pse::Blocks::all_rows ? sequence.rows : 1;
      sequence.bias = {base, rows * sequence.keys, rows > 1 ? sequence.keys : 0};
      base += heads * rows * sequence.keys;
    }
    ++index;
  }
  problem.bias.elements = extent(view);
}

std::optional<Pse> apply_pse(const FusionAttentionOptions& options, Layout layout, Element query,
                             Problem& problem) {
  if (options.pse_type < 0 || options.pse_type > 3) refuse("pse_type", number(options.pse_type), "0 to 3");
  const std::int64_t shift = shift_of(options);
  if (!options.pse) {
    if (options.pse_type != 1) refuse("pse_type", number(options.pse_type), "1 where pse is None");
    return std::nullopt;
  }
  check_type_and_mode(options, query);
  const Pse pse =
      is_slope(options) ? read_slopes(options, layout, problem) : read_bias(options.pse, layout, problem);
  problem.bias.kind = options.pse_type == 2   ? BiasKind::distance
                      : options.pse_type == 3 ? BiasKind::root_distance
                                              : BiasKind::dense;
  problem.bias.dtype = pse.view.dtype;
  problem.bias.before_scale = options.pse_type == 1;
  // Mode 8 cuts the first sequence short, and only that one starts elsewhere.
  const bool first_only = mode_of(options) == 8;
  for (std::size_t i = 0; i < problem.sequences.size(); ++i)
    problem.sequences[i].bias_shift = first_only && i > 0 ? 0 : shift;
  set_planes(pse, pse.view, problem);
  return pse;
}

}  // namespace fusion_attention
