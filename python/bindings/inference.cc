// The inference operators.
#include "fusion_attention/families/inference.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "bindings.h"
#include "fusion_attention/error.h"
#include "fusion_attention/run.h"

namespace nb = nanobind;

namespace fusion_attention {
namespace {

// One argument by its name in InferenceOptions.
struct Word {
  const char* name;
  void (*set)(InferenceOptions& options, nb::handle value);
};

// The argument itself, of the options or of their StoredKeys.
template <class T>
T& member(InferenceOptions& options, T InferenceOptions::* place) {
  return options.*place;
}
template <class T>
T& member(InferenceOptions& options, T StoredKeys::* place) {
  return options.stored.*place;
}

template <auto Member>
void set_array(InferenceOptions& options, nb::handle value) {
  member(options, Member) = array_of(value);
}

template <auto Member>
void set_value(InferenceOptions& options, nb::handle value) {
  auto& place = member(options, Member);
  place = nb::cast<std::remove_reference_t<decltype(place)>>(value);
}

void set_out_dtype(InferenceOptions& options, nb::handle value) {
  options.out_dtype = static_cast<Element>(nb::cast<int>(value));
}

constexpr Word kWords[] = {
    {"num_heads", set_value<&InferenceOptions::num_heads>},
    {"num_key_value_heads", set_value<&InferenceOptions::num_key_value_heads>},
    {"input_layout", set_value<&InferenceOptions::input_layout>},
    {"scale", set_value<&InferenceOptions::scale>},
    {"atten_mask", set_array<&InferenceOptions::atten_mask>},
    {"sparse_mode", set_value<&InferenceOptions::sparse_mode>},
    {"pre_tokens", set_value<&InferenceOptions::pre_tokens>},
    {"next_tokens", set_value<&InferenceOptions::next_tokens>},
    {"actual_seq_lengths", set_value<&InferenceOptions::actual_seq_lengths>},
    {"actual_seq_lengths_kv", set_value<&InferenceOptions::actual_seq_lengths_kv>},
    {"pse_shift", set_array<&InferenceOptions::pse_shift>},
    {"deq_scale1", set_array<&InferenceOptions::deq_scale1>},
    {"quant_scale1", set_array<&InferenceOptions::quant_scale1>},
    {"deq_scale2", set_array<&InferenceOptions::deq_scale2>},
    {"quant_scale2", set_array<&InferenceOptions::quant_scale2>},
    {"quant_offset2", set_array<&InferenceOptions::quant_offset2>},
    {"dequant_scale_query", set_array<&InferenceOptions::dequant_scale_query>},
    {"query_quant_mode", set_value<&InferenceOptions::query_quant_mode>},
    {"out_dtype", set_out_dtype},
    {"padding_mask", set_array<&InferenceOptions::padding_mask>},
    {"inner_precise", set_value<&InferenceOptions::inner_precise>},
    {"learnable_sink", set_array<&InferenceOptions::learnable_sink>},
    {"block_table", set_array<&StoredKeys::block_table>},
    {"block_size", set_value<&StoredKeys::block_size>},
    {"key_shared_prefix", set_array<&StoredKeys::key_shared_prefix>},
    {"value_shared_prefix", set_array<&StoredKeys::value_shared_prefix>},
    {"actual_shared_prefix_len", set_value<&StoredKeys::actual_shared_prefix_len>},
    {"query_rope", set_array<&StoredKeys::query_rope>},
    {"key_rope", set_array<&StoredKeys::key_rope>},
    {"query_padding_size", set_array<&StoredKeys::query_padding_size>},
    {"kv_padding_size", set_array<&StoredKeys::kv_padding_size>},
    {"antiquant_scale", set_array<&StoredKeys::antiquant_scale>},
    {"antiquant_offset", set_array<&StoredKeys::antiquant_offset>},
    {"antiquant_mode", set_value<&StoredKeys::antiquant_mode>},
    {"key_antiquant_scale", set_array<&StoredKeys::key_antiquant_scale>},
    {"key_antiquant_offset", set_array<&StoredKeys::key_antiquant_offset>},
    {"key_antiquant_mode", set_value<&StoredKeys::key_antiquant_mode>},
    {"value_antiquant_scale", set_array<&StoredKeys::value_antiquant_scale>},
    {"value_antiquant_offset", set_array<&StoredKeys::value_antiquant_offset>},
    {"value_antiquant_mode", set_value<&StoredKeys::value_antiquant_mode>},
};

// words: what is not at its default, by name.
void construct(InferenceAttention* self, const std::string& interface, nb::handle query, nb::handle key,
               nb::handle value, const nb::dict& words, std::optional<bool> strict) {
  const std::optional<Interface> documented = interface_of(interface);
  if (!documented) throw Error(ErrorKind::value, "interface", interface, "one of _core.documented_limits()");
  InferenceOptions options(*documented);
  options.strict = strict;
  for (const auto& [name, given] : words) {
    const auto text = nb::cast<std::string>(name);
    const auto* word = std::find_if(std::begin(kWords), std::end(kWords),
                                    [&text](const Word& known) { return text == known.name; });
    if (word == std::end(kWords)) throw Error(ErrorKind::type, "words", text, "a name of InferenceOptions");
    word->set(options, given);
  }
  new (self) InferenceAttention(array_of(query), array_of(key), array_of(value), options);
}

void forward(InferenceAttention& call, std::uintptr_t attention_out, std::uintptr_t softmax_lse) {
  nb::gil_scoped_release release;
  call.forward(pointer(attention_out), static_cast<float*>(pointer(softmax_lse)));
}

std::vector<std::string> notes(const InferenceAttention& call) {
  nb::gil_scoped_release release;
  return call.notes();
}

}  // namespace

void bind_inference(nb::module_& m) {
  using nb::arg;
  nb::class_<InferenceAttention>(m, "InferenceAttention")
      .def("__init__", &construct, arg("interface"), arg("query").none(), arg("key").none(),
           arg("value").none(), arg("words"), arg("strict").none())
      .def("forward", &forward, arg("attention_out"), arg("softmax_lse"))
      .def("notes", &notes)
      .def("text", [](const InferenceAttention& call) { return text(call.problem()); })
      .def("report", [](const InferenceAttention& call) { return explain(call.problem()); })
      .def_prop_ro("output_element",
                   [](const InferenceAttention& call) { return static_cast<int>(call.output_element()); })
      .def_prop_ro("output_shape",
                   [](const InferenceAttention& call) { return tuple_of(call.output_shape()); })
      .def_prop_ro("lse_shape", [](const InferenceAttention& call) { return tuple_of(call.lse_shape()); });
}

}  // namespace fusion_attention
