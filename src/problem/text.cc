// Problem ⇄ one line.
#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <sstream>
#include <vector>

#include "fusion_attention/error.h"
#include "fusion_attention/problem.h"
#include "problem/cache_text.h"
#include "problem/contiguous.h"
#include "problem/planes.h"
#include "problem/reader.h"

namespace fusion_attention {
namespace {

constexpr char kAxes[] = "bnqk";
constexpr const char* kKinds[] = {"none", "dense", "distance", "root_distance"};  // BiasKind
constexpr char kBias[] = "bias(dense|distance|root_distance[,axes][,dtype][,before][,last=n][,shift=n[:n…]])";
constexpr char kInteger[] = "integer(score_scale,weight_scale,value_scale)";
constexpr char kScaled[] = "scaled(count[,offset])";
constexpr char kDropout[] = "dropout(keep=number,bits) or dropout(keep=number,seed=n,offset=n)";

template <class T>
std::string number(T value) {
  char buffer[32];
  return std::string(buffer, std::to_chars(buffer, buffer + sizeof buffer, value).ptr);
}
std::string end(std::int64_t value) {
  if (value >= Band::kFar) return "inf";
  if (value <= -Band::kFar) return "-inf";
  return std::to_string(value);
}
std::string band_text(const Band& band, char separator) {
  std::string text = end(band.lo) + separator + end(band.hi);
  const bool reach = band.reach != Band::kFar, block = band.block != 1 || reach;
  if (band.prefix || block) text += separator + std::to_string(band.prefix);
  if (block) text += separator + std::to_string(band.block);
  if (reach) text += separator + std::to_string(band.reach);
  return text;
}

// One sequence per batch entry, all rows and keys, one band.
bool uniform(const Problem& p) {
  if (static_cast<std::int64_t>(p.sequences.size()) != p.query.batches()) return false;
  for (std::size_t b = 0; b < p.sequences.size(); ++b) {
    const Sequence& s = p.sequences[b];
    if (s.batch != static_cast<std::int64_t>(b) || s.row || s.key || s.row0 || s.key0 ||
        s.rows != p.query.rows() || s.keys != own_keys(p) + s.prefix || s.band != p.sequences[0].band)
      return false;
  }
  return true;
}

// Of the planes only what broadcasts is told: the numbers lie where natural_bias puts them.
std::string bias_text(const Problem& p) {
  const bool dense = p.bias.kind == BiasKind::dense;
  BiasAxes axes;
  bool shifted = false, alike = true;
  for (const Sequence& s : p.sequences) {
    const Sequence& first = p.sequences[0];
    axes.batch |= s.bias.base != first.bias.base;
    axes.head |= s.bias.head != 0;
    axes.row |= s.bias.row != 0;
    shifted |= s.bias_shift != 0;
    alike &= s.bias_shift == first.bias_shift;
  }
  std::string text = std::string(" bias(") + kKinds[static_cast<int>(p.bias.kind)] + ",";
  if (axes.batch) text += 'b';
  if (axes.head) text += 'n';
  if (dense && axes.row) text += 'q';
  if (dense) text += std::string("k,") + name(p.bias.dtype);
  if (text.back() == ',') text.pop_back();
  if (p.bias.before_scale) text += ",before";
  if (p.bias.last_rows) text += ",last=" + std::to_string(p.bias.last_rows);
  if (!dense && shifted) {
    text += ",shift=" + std::to_string(p.sequences[0].bias_shift);
    for (std::size_t i = 1; i < p.sequences.size() && !alike; ++i)
      text += ":" + std::to_string(p.sequences[i].bias_shift);
  }
  return text + ")";
}

std::string dropout_text(const Dropout& dropout) {
  const std::string text = " dropout(keep=" + number(dropout.keep_prob);
  if (dropout.bits) return text + ",bits)";
  return text + ",seed=" + std::to_string(dropout.seed) + ",offset=" + std::to_string(dropout.offset) + ")";
}

struct Line {
  std::optional<Pass> pass;
  std::optional<Dtype> dtype;
  std::int64_t batches = 1, heads = 1, kv_heads = 1, rows = 1, keys = 1, depth = 1, value_depth = 1;
  double scale = 1;
  Band band;
  std::vector<Sequence> sequences;
  bool listed = false;
  std::string overlay;
  Bias bias;
  BiasAxes bias_axes;
  std::vector<std::int64_t> shifts;  // none, one for all, or one per sequence
  Dropout dropout;
  bool bits = false, sink = false, half_scores = false;
  std::int64_t scaled = 0;  // numbers of output_scaling: 0 for none
  bool scaled_offset = false;
  Integer integer;
  CacheLine cache;
};

void read_sequences(Reader& reader, Line& line) {
  line.listed = true;
  while (!reader.skip(")")) {
    Sequence s;
    std::int64_t* const fields[] = {&s.batch, &s.row, &s.rows, &s.key, &s.keys, &s.row0, &s.key0};
    for (std::int64_t* field : fields) {
      *field = reader.take<std::int64_t>(
          "seqs(batch:row:rows:key:keys:row0:key0:lo:hi[:prefix[:block[:reach]]],…)");
      if (!reader.skip(":")) malformed(reader.word(), "fields separated by ':'");
    }
    s.band = reader.band(":");
    line.sequences.push_back(s);
    reader.skip(",");
    if (reader.done()) malformed(reader.word(), "a closing ')'");
  }
}

void read_bias_part(Reader& reader, Line& line) {
  if (const auto dtype = reader.floating_dtype()) {
    line.bias.dtype = *dtype;
    return;
  }
  if (reader.skip("before")) {
    line.bias.before_scale = true;
  } else if (reader.skip("last=")) {
    line.bias.last_rows = reader.take<std::int64_t>("last=rows");
  } else if (reader.skip("shift=")) {
    do line.shifts.push_back(reader.take<std::int64_t>("shift=integer[:integer…]"));
    while (reader.skip(":"));
  } else {
    line.bias_axes.batch = reader.skip("b");
    line.bias_axes.head = reader.skip("n");
    line.bias_axes.row = reader.skip("q");
    if (reader.skip("k") != (line.bias.kind == BiasKind::dense)) malformed(reader.word(), kBias);
  }
}

void read_bias(Reader& reader, Line& line) {
  for (const BiasKind kind : {BiasKind::dense, BiasKind::distance, BiasKind::root_distance})
    if (line.bias.kind == BiasKind::none && reader.skip(kKinds[static_cast<int>(kind)]))
      line.bias.kind = kind;
  if (!line.bias) malformed(reader.word(), kBias);
  while (reader.skip(",")) read_bias_part(reader, line);
  if (!reader.skip(")")) malformed(reader.word(), kBias);
}

void read_dropout(Reader& reader, Line& line) {
  if (!reader.skip("keep=")) malformed(reader.word(), kDropout);
  line.dropout.keep_prob = reader.take<double>(kDropout);
  line.bits = reader.skip(",bits");
  if (reader.skip(",seed=")) line.dropout.seed = reader.take<std::uint64_t>(kDropout);
  if (reader.skip(",offset=")) line.dropout.offset = reader.take<std::uint64_t>(kDropout);
  if (!reader.skip(")")) malformed(reader.word(), kDropout);
}

void read_integer(Reader& reader, Line& line) {
  line.integer.score_scale = reader.take<float>(kInteger);
  if (!reader.skip(",")) malformed(reader.word(), kInteger);
  line.integer.weight_scale = reader.take<float>(kInteger);
  if (!reader.skip(",")) malformed(reader.word(), kInteger);
  line.integer.value_scale = reader.take<float>(kInteger);
  if (!reader.skip(")")) malformed(reader.word(), kInteger);
}

void read_scaled(Reader& reader, Line& line) {
  line.scaled = reader.take<std::int64_t>(kScaled);
  line.scaled_offset = reader.skip(",offset");
  if (!reader.skip(")")) malformed(reader.word(), kScaled);
}

// One word of the line.
void read_word(std::string_view word, Line& line) {
  Reader reader(word);
  constexpr const char* kCount = "a letter and a count";
  if (word == "fwd" || word == "bwd") {
    line.pass = word == "fwd" ? Pass::forward : Pass::backward;
    return;
  }
  if (const auto dtype = reader.floating_dtype()) {
    line.dtype = dtype;
  } else if (reader.skip(name(Dtype::int8))) {
    line.dtype = Dtype::int8;
  } else if (read_cache(reader, line.cache)) {
    // pages(), prefix(), rope(), key(), value()
  } else if (reader.skip("scale=")) {
    line.scale = reader.take<double>("scale=number");
  } else if (reader.skip("band(")) {
    line.band = reader.band(",");
    if (!reader.skip(")")) malformed(word, "band(lo,hi[,prefix[,block[,reach]]])");
  } else if (reader.skip("seqs(")) {
    read_sequences(reader, line);
  } else if (reader.skip("overlay(")) {
    for (const char* axis = kAxes; *axis; ++axis)
      if (reader.skip(std::string_view(axis, 1))) line.overlay += *axis;
    if (!reader.skip(")")) malformed(word, "overlay() with any of b, n, q, k in this order");
    line.overlay += '!';  // present, even with no axis
  } else if (reader.skip("bias(")) {
    read_bias(reader, line);
  } else if (reader.skip("dropout(")) {
    read_dropout(reader, line);
  } else if (reader.skip("scaled(")) {
    read_scaled(reader, line);
  } else if (reader.skip("integer(")) {
    read_integer(reader, line);
  } else if (reader.skip("halves")) {
    line.half_scores = true;
  } else if (reader.skip("sink")) {
    line.sink = true;
  } else if (reader.skip("b")) {
    line.batches = reader.take<std::int64_t>(kCount);
  } else if (reader.skip("h")) {
    line.heads = line.kv_heads = reader.take<std::int64_t>(kCount);
    if (reader.skip("/")) line.kv_heads = reader.take<std::int64_t>(kCount);
  } else if (reader.skip("q")) {
    line.rows = reader.take<std::int64_t>(kCount);
  } else if (reader.skip("k")) {
    line.keys = reader.take<std::int64_t>(kCount);
  } else if (reader.skip("d")) {
    line.depth = line.value_depth = reader.take<std::int64_t>(kCount);
    if (reader.skip("/")) line.value_depth = reader.take<std::int64_t>(kCount);
  } else {
    malformed(word,
              "fwd|bwd, fp32|fp16|bf16|int8, b, h, q, k, d, scale=, band(), seqs(), overlay(), bias(), "
              "dropout(), sink, halves, integer(), scaled(), pages(), prefix(), rope(), key(), value()");
  }
  if (!reader.done()) malformed(word, "nothing after the value");
}

// Refuses sizes whose mask no address space holds, before any product of them is taken.
void check_sizes(const Line& line) {
  constexpr std::int64_t kMostBatches = 1 << 24;  // each is a Sequence in memory
  if (line.batches > kMostBatches)
    throw Error(ErrorKind::value, "problem line", "b" + std::to_string(line.batches), "b0 … b16777216");
  for (const std::int64_t size :
       {line.batches, line.heads, line.kv_heads, line.rows, line.keys, line.depth, line.value_depth})
    if (size < 0 || size > Band::kFar)
      throw Error(ErrorKind::value, "problem line", std::to_string(size), "sizes of 0 … 2^40");
  contiguous_view(Dtype::int8, {line.batches, line.heads, line.rows, line.keys});
}

// Contiguous in the axes it has.
void describe_overlay(const Line& line, Problem& p) {
  if (line.overlay.empty()) return;
  p.overlay.data = kDescribed;
  std::int64_t keys = line.keys;
  for (const Sequence& s : p.sequences) keys = std::max(keys, s.keys);
  const std::int64_t sizes[] = {line.batches, line.heads, line.rows, keys};
  std::int64_t stride = 1;
  for (int axis = 3; axis >= 0; --axis) {
    const bool present = line.overlay.find(kAxes[axis]) != std::string::npos;
    p.overlay.stride[static_cast<std::size_t>(axis)] = present ? stride : 0;
    if (present) stride *= std::max<std::int64_t>(sizes[axis], 1);
  }
}

// Natural planes, and bits for the last of their indices.
void describe_scores(const Line& line, Problem& p) {
  const Numbering numbering = numbering_of(p);
  p.bias = line.bias;
  if (p.bias) natural_bias(p, line.bias_axes, numbering);
  if (line.shifts.size() > 1 && line.shifts.size() != p.sequences.size())
    malformed("shift=", "one number, or one per sequence");
  for (std::size_t i = 0; i < p.sequences.size() && !line.shifts.empty(); ++i)
    p.sequences[i].bias_shift = line.shifts[line.shifts.size() > 1 ? i : 0];
  p.dropout = line.dropout;
  if (line.bits) p.dropout.bits = kDescribed;
  if (p.dropout) p.dropout.bytes = (natural_dropout(p, numbering) + 7) / 8;
  if (line.sink) p.sink.data = reinterpret_cast<const float*>(kDescribed);
  p.half_scores = line.half_scores;
}

void describe_results(const Line& line, Problem& p) {
  p.integer = line.integer;
  if (line.scaled == 0) return;
  p.output.dtype = Dtype::int8;
  p.output_scaling.scale = reinterpret_cast<const float*>(kDescribed);
  p.output_scaling.channels = line.scaled;
  if (line.scaled_offset) p.output_scaling.offset = p.output_scaling.scale;
}

}  // namespace

std::string text(const Problem& p) {
  std::ostringstream out;
  out << (p.pass == Pass::forward ? "fwd " : "bwd ") << name(p.query.dtype) << " b" << p.query.batches()
      << " h" << p.query.heads() << "/" << p.key.heads() << " q" << p.query.rows() << " k" << own_keys(p)
      << " d" << p.query.channels() << "/" << p.value.channels() << " scale=" << number(p.scale);
  if (uniform(p)) {
    out << " band(" << band_text(p.sequences.empty() ? Band{} : p.sequences[0].band, ',') << ")";
  } else {
    out << " seqs(";
    const char* separator = "";
    for (const Sequence& s : p.sequences) {
      out << separator << s.batch << ":" << s.row << ":" << s.rows << ":" << s.key << ":" << s.keys << ":"
          << s.row0 << ":" << s.key0 << ":" << band_text(s.band, ':');
      separator = ",";
    }
    out << ")";
  }
  if (p.overlay) {
    out << " overlay(";
    for (std::size_t axis = 0; axis < 4; ++axis)
      if (p.overlay.stride[axis]) out << kAxes[axis];
    out << ")";
  }
  if (p.bias) out << bias_text(p);
  if (p.dropout) out << dropout_text(p.dropout);
  if (p.sink) out << " sink";
  if (p.half_scores) out << " halves";
  if (p.query.dtype == Dtype::int8)
    out << " integer(" << number(p.integer.score_scale) << "," << number(p.integer.weight_scale) << ","
        << number(p.integer.value_scale) << ")";
  if (p.output_scaling)
    out << " scaled(" << p.output_scaling.channels << (p.output_scaling.offset ? ",offset)" : ")");
  out << cache_text(p);
  return out.str();
}

Problem parse(std::string_view text) {
  Line line;
  while (!text.empty()) {
    const std::size_t space = text.find(' ');
    const std::string_view word = text.substr(0, space);
    if (!word.empty()) read_word(word, line);
    text.remove_prefix(space == std::string_view::npos ? text.size() : space + 1);
  }
  if (!line.pass || !line.dtype) malformed(text, "a line with fwd|bwd and fp32|fp16|bf16|int8");
  check_sizes(line);
  Problem p = dense_problem(*line.pass, *line.dtype, line.batches, line.heads, line.kv_heads, line.rows,
                            line.keys, line.depth, line.value_depth, line.scale, line.band);
  if (line.listed) p.sequences = line.sequences;
  describe_cache(line.cache, line.listed, p);
  describe_overlay(line, p);
  validate(p);  // planes count on sequences that fit
  describe_scores(line, p);
  describe_results(line, p);
  validate(p);
  return p;
}

}  // namespace fusion_attention
