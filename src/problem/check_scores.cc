// Every rejection of what joins the scores: O(sequences), and no number of theirs is read.
#include <algorithm>
#include <cfloat>
#include <cmath>
#include <optional>

#include "problem/check.h"

namespace fusion_attention {
namespace {

// The last index that heads × rows × keys of a plane reach; none where it passes 2^62.
std::optional<std::int64_t> last_index(const Plane& plane, std::int64_t heads, std::int64_t rows,
                                       std::int64_t keys) {
  std::int64_t last = plane.base, reach = 0;
  for (const auto& [count, stride] :
       {std::pair{heads, plane.head}, {rows, plane.row}, {keys, std::int64_t{1}}})
    if (__builtin_mul_overflow(count - 1, stride, &reach) || __builtin_add_overflow(last, reach, &last) ||
        last > kMost)
      return std::nullopt;
  return last;
}

void check_plane(const char* argument, const Plane& plane) {
  for (const std::int64_t number : {plane.base, plane.head, plane.row})
    if (number < 0)
      refuse(argument,
             "a plane of base " + std::to_string(plane.base) + ", strides " + std::to_string(plane.head) +
                 " and " + std::to_string(plane.row),
             "numbers of at least 0");
}

// Local key j at most local row i, whatever else hides.
bool shows_only_the_past(const Sequence& s) {
  return s.band.hi <= s.key0 - s.row0 && s.band.prefix <= s.key0 + 1;
}

void check_last_rows(const Bias& bias, const Sequence& s) {
  if (bias.last_rows == 0 || s.rows == 0) return;
  if (s.rows != s.keys)
    refuse("bias.last_rows", std::to_string(s.rows) + " rows and " + std::to_string(s.keys) + " keys",
           "as many keys as rows");
  if (!shows_only_the_past(s))
    refuse("bias.last_rows", "a band that shows keys after the row", "a causal band");
}

void check_bias_reach(const Problem& p, const Sequence& s) {
  const Bias& bias = p.bias;
  if (s.rows == 0 || s.keys == 0 || p.query.heads() == 0) return;
  const bool dense = bias.kind == BiasKind::dense;
  const std::int64_t rows = bias.last_rows > 0 ? bias.last_rows : s.rows;
  const auto last = last_index(s.bias, p.query.heads(), dense ? rows : 1, dense ? s.keys : 1);
  if (!last || *last >= bias.elements)
    refuse("bias", std::to_string(bias.elements) + " elements",
           last ? "at least " + std::to_string(*last + 1) : "a plane whose indices stay below 2^62");
}

void check_bias(const Problem& p) {
  const Bias& bias = p.bias;
  const bool dense = bias.kind == BiasKind::dense;
  const bool integer = p.query.dtype == Dtype::int8;
  if (integer && bias.dtype != Dtype::float16)
    refuse("bias", std::string("dtype ") + name(bias.dtype), "fp16 for int8 operands");
  if (!integer && bias.dtype != Dtype::float32 && (!dense || bias.dtype != p.query.dtype))
    refuse("bias", std::string("dtype ") + name(bias.dtype),
           dense ? std::string("fp32 or query's, ") + name(p.query.dtype) : "fp32 for slopes");
  if (bias.elements < 0 || bias.elements > kMost / 8)
    refuse("bias.elements", std::to_string(bias.elements), "0 … 2^59");
  if (bias.last_rows < 0 || bias.last_rows > Band::kFar)
    refuse("bias.last_rows", std::to_string(bias.last_rows), "0 … 2^40");
  if (!dense && bias.before_scale) refuse("bias.before_scale", "slopes", "a dense bias");
  if (!dense && bias.last_rows > 0) refuse("bias.last_rows", "slopes", "a dense bias");
  for (const Sequence& s : p.sequences) {
    check_plane("bias", s.bias);
    if (s.bias_shift < -Band::kFar || s.bias_shift > Band::kFar)
      refuse("bias_shift", std::to_string(s.bias_shift), "a shift within ±2^40");
    check_last_rows(bias, s);
    check_bias_reach(p, s);
  }
}

void check_dropout(const Problem& p) {
  const Dropout& dropout = p.dropout;
  if (!(dropout.keep_prob >= FLT_MIN &&
        dropout.keep_prob <= 1))  // a NaN too; 1 / keep_prob is an fp32 number
    refuse("keep_prob", std::to_string(dropout.keep_prob), "a number in (0, 1]");
  if (dropout.bytes < 0 || dropout.bytes > kMost / 8)
    refuse("dropout.bits", std::to_string(dropout.bytes) + " bytes", "0 … 2^59");
  if (!dropout) return;
  for (const Sequence& s : p.sequences) {
    check_plane("dropout", s.dropout);
    if (s.rows == 0 || s.keys == 0 || p.query.heads() == 0) continue;
    const auto last = last_index(s.dropout, p.query.heads(), s.rows, s.keys);
    if (!last) refuse("dropout", "a plane that reaches past 2^62", "indices below 2^62");
    if (dropout.bits && *last / 8 >= dropout.bytes)
      refuse("dropout.bits", std::to_string(dropout.bytes) + " bytes",
             "at least " + std::to_string(*last / 8 + 1));
  }
}

}  // namespace

void check_scores(const Problem& p) {
  if (p.bias) check_bias(p);
  check_dropout(p);
  if (p.sink.gradient && !p.sink) refuse("sink.gradient", "no sink", "a sink, or no gradient of one");
}

}  // namespace fusion_attention
