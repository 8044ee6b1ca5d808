// fusion_attention._core: pointers, shapes, strides and words in; nothing of a framework. An array arrives as
// the tuple (address, element, shape, strides in elements), or None.
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "bindings.h"
#include "fusion_attention/families/fusion_attention.h"
#include "fusion_attention/fusion_attention.h"

namespace nb = nanobind;
using namespace fusion_attention;

namespace {

using Lengths = std::optional<std::vector<std::int64_t>>;

// In the order of fusion_attention._table.ARGUMENTS.
void construct(FusionAttention* self, bool backward, bool tockens, nb::handle query, nb::handle key,
               nb::handle value, std::int64_t head_num, std::string input_layout, double scale,
               nb::handle atten_mask, std::int64_t sparse_mode, std::int64_t pre_tokens,
               std::int64_t next_tokens, Lengths actual_seq_qlen, Lengths actual_seq_kvlen,
               std::string softmax_layout, double keep_prob, std::int64_t inner_precise, Lengths prefix,
               std::int64_t pse_type, nb::handle pse, nb::handle padding_mask, nb::handle query_rope,
               nb::handle key_rope, nb::handle sink, nb::handle dropout_mask, Lengths q_start_idx,
               Lengths kv_start_idx, std::int64_t seed, std::int64_t offset, std::optional<bool> strict) {
  FusionAttentionOptions options;
  options.head_num = head_num;
  options.input_layout = std::move(input_layout);
  options.scale = scale;
  options.keep_prob = keep_prob;
  options.atten_mask = array_of(atten_mask);
  options.sparse_mode = sparse_mode;
  options.pre_tokens = pre_tokens;
  options.next_tokens = next_tokens;
  options.prefix = std::move(prefix);
  options.actual_seq_qlen = std::move(actual_seq_qlen);
  options.actual_seq_kvlen = std::move(actual_seq_kvlen);
  options.softmax_layout = std::move(softmax_layout);
  options.padding_mask = array_of(padding_mask);
  options.pse = array_of(pse);
  options.query_rope = array_of(query_rope);
  options.key_rope = array_of(key_rope);
  options.sink = array_of(sink);
  options.dropout_mask = array_of(dropout_mask);
  options.pse_type = pse_type;
  options.q_start_idx = std::move(q_start_idx);
  options.kv_start_idx = std::move(kv_start_idx);
  options.inner_precise = inner_precise;
  options.seed = seed;
  options.offset = offset;
  options.tockens = tockens;
  options.strict = strict;
  new (self) FusionAttention(backward ? Pass::backward : Pass::forward, array_of(query), array_of(key),
                             array_of(value), options);
}

void forward(FusionAttention& call, std::uintptr_t attention_out, std::uintptr_t softmax_max,
             std::uintptr_t softmax_sum) {
  nb::gil_scoped_release release;
  call.forward(pointer(attention_out), static_cast<float*>(pointer(softmax_max)),
               static_cast<float*>(pointer(softmax_sum)));
}

// `gradients`: the addresses of dq, dk, dv, dpse, dq_rope, dk_rope and dsink; 0 for one that is not asked
// for.
void backward(FusionAttention& call, nb::handle dy, nb::handle softmax_max, nb::handle softmax_sum,
              nb::handle attention_in, const std::array<std::uintptr_t, 7>& gradients) {
  const Array arrays[] = {array_of(dy), array_of(softmax_max), array_of(softmax_sum), array_of(attention_in)};
  const auto at = [&gradients](std::size_t i) { return pointer(gradients[i]); };
  const Gradients written{at(0), at(1), at(2), at(3), at(4), at(5), static_cast<float*>(at(6))};
  nb::gil_scoped_release release;
  call.backward(arrays[0], arrays[1], arrays[2], arrays[3], written);
}

void write_dropout_mask(std::uintptr_t address, std::int64_t numbers, double p, std::int64_t seed,
                        std::int64_t offset) {
  nb::gil_scoped_release release;
  dropout_mask(numbers, 1 - p, static_cast<std::uint64_t>(seed), static_cast<std::uint64_t>(offset),
               static_cast<std::uint8_t*>(pointer(address)));
}

std::vector<std::string> notes(const FusionAttention& call) {
  nb::gil_scoped_release release;
  return call.notes();
}

// (batch, first row, rows, first key, keys, lo, hi, prefix, block) of every sequence; lo and hi are None
// where the band has no end on that side.
nb::list sequences(const FusionAttention& call) {
  nb::list all;
  for (const Sequence& s : call.problem().sequences) {
    const auto end = [](std::int64_t value) {
      return value == Band::kFar || value == -Band::kFar ? nb::object(nb::none())
                                                         : nb::object(nb::int_(value));
    };
    all.append(nb::make_tuple(s.batch, s.row, s.rows, s.key, s.keys, end(s.band.lo), end(s.band.hi),
                              s.band.prefix, s.band.block));
  }
  return all;
}

// One byte per (row, key) of one sequence and head, row-major: 1 where the row sees the key.
nb::bytes visible(const FusionAttention& call, std::size_t index, std::int64_t head) {
  const Problem& problem = call.problem();
  if (index >= problem.sequences.size()) throw nb::index_error("sequence");
  if (head < 0 || head >= problem.query.heads()) throw nb::index_error("head");
  const Sequence& s = problem.sequences[index];
  const Overlay& overlay = problem.overlay;
  std::string seen(static_cast<std::size_t>(s.rows * s.keys), '\0');
  for (std::int64_t row = 0; row < s.rows; ++row) {
    const Interval keys = s.band.row(s.row0 + row, s.key0 + s.keys);
    for (std::int64_t key = std::max<std::int64_t>(keys.begin - s.key0, 0); key < keys.end - s.key0; ++key) {
      const std::int64_t place = s.batch * overlay.stride[0] + head * overlay.stride[1] +
                                 row * overlay.stride[2] + key * overlay.stride[3];
      if (!overlay || overlay.data[place] == 0) seen[static_cast<std::size_t>(row * s.keys + key)] = 1;
    }
  }
  return nb::bytes(seen.data(), seen.size());
}

nb::list parts(const std::vector<Part>& parts) {
  nb::list all;
  for (const Part& part : parts) all.append(nb::make_tuple(part.name, part.refused));
  return all;
}

// As the dictionaries of machine.choices().
nb::list choices_made() {
  std::vector<Choice> made;
  {
    nb::gil_scoped_release release;
    made = choices();
  }
  nb::list all;
  for (const Choice& choice : made) {
    nb::dict words;
    words["pass"] = choice.pass, words["dtype"] = choice.dtype, words["kernel"] = choice.kernel;
    words["route"] = choice.route, words["rate"] = choice.rate;
    words["roof"] = choice.roof, words["products"] = choice.products;
    words["machine"] = choice.machine, words["rows"] = choice.rows, words["keys"] = choice.keys;
    words["round_trip"] = choice.round_trip, words["splits"] = choice.splits;
    words["passed_over"] = parts(choice.passed_over);
    all.append(words);
  }
  return all;
}

double measure_roof(const std::string& name, double seconds) {
  for (const Roof& roof : roofs()) {
    if (name != roof.name) continue;
    nb::gil_scoped_release release;
    return roof.measure(seconds);
  }
  throw Error(ErrorKind::value, "name", name, "one of machine.roofs()");
}

// One place where the library's error becomes Python's.
void translate(const std::exception_ptr& pointer, void* /*payload*/) {
  try {
    std::rethrow_exception(pointer);
  } catch (const Error& error) {
    PyObject* type = PyExc_RuntimeError;
    if (error.kind() == ErrorKind::type) type = PyExc_TypeError;
    if (error.kind() == ErrorKind::form) type = PyExc_ValueError;
    if (error.kind() == ErrorKind::memory) type = PyExc_MemoryError;
    PyErr_SetString(type, error.what());
  }
}

}  // namespace

NB_MODULE(_core, m) {
  nb::set_leak_warnings(false);  // interpreters end while other modules still hold our classes
  nb::register_exception_translator(translate);
  m.attr("__version__") = FUSION_ATTENTION_VERSION;

  using nb::arg;
  nb::class_<FusionAttention>(m, "FusionAttention")
      .def("__init__", &construct, arg("backward"), arg("tockens"), arg("query").none(), arg("key").none(),
           arg("value").none(), arg("head_num"), arg("input_layout"), arg("scale"), arg("atten_mask").none(),
           arg("sparse_mode"), arg("pre_tokens"), arg("next_tokens"), arg("actual_seq_qlen").none(),
           arg("actual_seq_kvlen").none(), arg("softmax_layout"), arg("keep_prob"), arg("inner_precise"),
           arg("prefix").none(), arg("pse_type"), arg("pse").none(), arg("padding_mask").none(),
           arg("query_rope").none(), arg("key_rope").none(), arg("sink").none(), arg("dropout_mask").none(),
           arg("q_start_idx").none(), arg("kv_start_idx").none(), arg("seed"), arg("offset"),
           arg("strict").none())
      .def("forward", &forward)
      .def("backward", &backward, arg("dy").none(), arg("softmax_max").none(), arg("softmax_sum").none(),
           arg("attention_in").none(), arg("gradients"))
      .def("notes", &notes)
      .def("sequences", &sequences)
      .def("visible", &visible, arg("sequence"), arg("head"))
      .def("text", [](const FusionAttention& call) { return text(call.problem()); })
      .def("report", [](const FusionAttention& call) { return explain(call.problem()); })
      .def_prop_ro("numels", &FusionAttention::numels)
      .def_prop_ro("output_shape", [](const FusionAttention& call) { return tuple_of(call.output_shape()); })
      .def_prop_ro("statistics_shape",
                   [](const FusionAttention& call) { return tuple_of(call.statistics_shape()); });

  bind_flash_attention_cell(m);
  bind_inference(m);
  bind_strict(m);

  m.def("dropout_mask_bytes", &dropout_mask_bytes, arg("numbers"));
  m.def("dropout_mask", &write_dropout_mask, arg("address"), arg("numbers"), arg("p"), arg("seed"),
        arg("offset"));

  m.def("cpu_name", &cpu_name);
  m.def("instruction_sets", [] { return parts(instruction_sets()); });
  m.def("kernels_built", [] { return parts(kernels_built()); });
  m.def("choices", &choices_made);
  m.def("roofs", [] {
    nb::list all;
    for (const Roof& roof : roofs()) all.append(nb::make_tuple(roof.name, roof.unit));
    return all;
  });
  m.def("measure_roof", &measure_roof, arg("name"), arg("seconds"));
  m.def("thread_count", &thread_count);
  m.def("set_thread_count", &set_thread_count, arg("threads"));
}
