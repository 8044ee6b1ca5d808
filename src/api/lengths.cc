#include "api/lengths.h"

#include <utility>

#include "api/refuse.h"

namespace fusion_attention {
namespace {

// Cumulative ends without leading 0 → the lengths. A 0 after a positive end says that this sequence and all
// that follow do not take part.
std::vector<std::int64_t> lengths_of(const char* argument, const std::vector<std::int64_t>& ends,
                                     std::int64_t total) {
  std::vector<std::int64_t> lengths;
  lengths.reserve(ends.size());
  std::int64_t previous = 0;
  bool ended = false;
  for (const std::int64_t end : ends) {
    ended = ended || (end == 0 && previous > 0);
    if (ended) {
      if (end != 0)
        refuse(argument, "an end of " + number(end) + " after a 0", "only zeros after a trailing 0");
      lengths.push_back(0);
      continue;
    }
    if (end < previous) {
      refuse(argument, "an end of " + number(end) + " after " + number(previous),
             "cumulative ends that never decrease");
    }
    if (end > total)
      refuse(argument, "an end of " + number(end), "at most the tensor's T = " + number(total));
    lengths.push_back(end - previous);
    previous = end;
  }
  return lengths;
}

}  // namespace

std::vector<Sequence> packed_sequences(const Ends& q_ends, const Ends& kv_ends, std::int64_t rows,
                                       std::int64_t keys) {
  for (const Ends* ends : {&q_ends, &kv_ends}) {
    if (!ends->list || ends->list->empty())
      refuse(ends->argument, ends->list ? "an empty list" : "None",
             "cumulative lengths for input_layout TND");
  }
  if (q_ends.list->size() != kv_ends.list->size()) {
    refuse(kv_ends.argument, number(static_cast<std::int64_t>(kv_ends.list->size())) + " entries",
           std::string("as many as ") + q_ends.argument + " has, " +
               number(static_cast<std::int64_t>(q_ends.list->size())));
  }
  const std::vector<std::int64_t> q_lengths = lengths_of(q_ends.argument, *q_ends.list, rows);
  const std::vector<std::int64_t> kv_lengths = lengths_of(kv_ends.argument, *kv_ends.list, keys);
  std::vector<Sequence> sequences(q_lengths.size());
  std::int64_t row = 0, key = 0;
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    sequences[i] = {.row = row, .rows = q_lengths[i], .key = key, .keys = kv_lengths[i], .band = {}};
    row += q_lengths[i];
    key += kv_lengths[i];
  }
  return sequences;
}

std::vector<Sequence> packed_sequences(const FusionAttentionOptions& options, std::int64_t rows,
                                       std::int64_t keys) {
  return packed_sequences({"actual_seq_qlen", options.actual_seq_qlen},
                          {"actual_seq_kvlen", options.actual_seq_kvlen}, rows, keys);
}

std::vector<Sequence> dense_sequences(const FusionAttentionOptions& options, Layout layout,
                                      std::int64_t batches, std::int64_t rows, std::int64_t keys) {
  for (const auto& [argument, ends] : {std::pair{"actual_seq_qlen", &options.actual_seq_qlen},
                                       std::pair{"actual_seq_kvlen", &options.actual_seq_kvlen}}) {
    if (*ends && !(*ends)->empty()) {
      refuse(argument, "a list",
             std::string("None for input_layout ") + name(layout) + ", only TND has lengths");
    }
  }
  std::vector<Sequence> sequences(static_cast<std::size_t>(batches));
  for (std::int64_t batch = 0; batch < batches; ++batch) {
    sequences[static_cast<std::size_t>(batch)] = {.batch = batch, .rows = rows, .keys = keys, .band = {}};
  }
  return sequences;
}

}  // namespace fusion_attention
