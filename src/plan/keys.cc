#include "plan/keys.h"

#include "plan/rows.h"

namespace fusion_attention::plan {
namespace {

using kernels::KeyChannels, kernels::KeySource, kernels::Operand, kernels::Scales;

// Bytes from one entry of an axis to the next. An axis of one entry may have any stride: it means nothing.
std::int64_t step(const TensorView& view, std::size_t axis) {
  return view.shape[axis] > 1 ? bytes_of(view.dtype, view.stride[axis]) : 0;
}

// From a batch entry and a row on.
Operand operand_at(const TensorView& view, std::int64_t batch, std::int64_t row) {
  return {row_at(view, batch, 0, row), step(view, 1), step(view, 2)};
}

// Where a sequence begins: on its own rows, or on page 0.
struct Origin {
  std::int64_t batch, row;
};
Origin origin_of(const Problem& problem, const Sequence& s) {
  return problem.cache.pages ? Origin{0, 0} : Origin{s.batch, s.key};
}

Scales scales(const TensorView& view, Origin origin, bool by_position) {
  if (!view.data) return {};
  return {.data = row_at(view, origin.batch, 0, origin.row),
          .prefix = row_at(view, 0, 0, 0),
          .dtype = view.dtype,
          .page = step(view, 0),
          .head = step(view, 1),
          .row = step(view, 2),
          .channel = step(view, 3),
          .by_position = by_position};
}

KeyChannels channels(const TensorView& view, const TensorView& prefix, const Scaling& scaling,
                     const Sequence& s, Origin origin) {
  const Origin of_scales = scaling.by_position ? Origin{s.batch, 0} : origin;
  return {.rows = operand_at(view, origin.batch, origin.row),
          .prefix = operand_at(prefix, 0, 0),
          .page = step(view, 0),
          .channels = view.channels(),
          .dtype = view.dtype,
          .scale = scales(scaling.scale, of_scales, scaling.by_position),
          .offset = scales(scaling.offset, of_scales, scaling.by_position)};
}

KeySource source(const Problem& problem, const Sequence& s, const std::int32_t* table,
                 const KeyChannels& leading) {
  return {
      .leading = leading, .rope = {}, .prefix = s.prefix, .table = table, .page_rows = problem.key.rows()};
}

}  // namespace

Operand operand(const TensorView& view, const Sequence& s, std::int64_t first) {
  return operand_at(view, s.batch, first);
}

KeySource key_source(const Problem& problem, const Sequence& s, const std::int32_t* table) {
  const Cache& cache = problem.cache;
  const Origin origin = origin_of(problem, s);
  KeySource keys = source(problem, s, table, channels(problem.key, cache.prefix_key, cache.key, s, origin));
  if (cache.has_rope()) keys.rope = channels(cache.key_rope, cache.prefix_key_rope, {}, s, origin);
  return keys;
}

KeySource value_source(const Problem& problem, const Sequence& s, const std::int32_t* table) {
  return source(
      problem, s, table,
      channels(problem.value, problem.cache.prefix_value, problem.cache.value, s, origin_of(problem, s)));
}

}  // namespace fusion_attention::plan
