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

template <Array InferenceOptions::* Member>
void set_array(InferenceOptions& options, nb::handle value) {
  options.*Member = array_of(value);
}

template <auto Member>
void set_value(InferenceOptions& options, nb::handle value) {
  using Type = std::remove_reference_t<decltype(options.*Member)>;
  options.*Member = nb::cast<Type>(value);
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
    {"padding_mask", set_array<&InferenceOptions::padding_mask>},
    {"inner_precise", set_value<&InferenceOptions::inner_precise>},
};

// words: what is not at its default, by name.
void construct(InferenceAttention* self, const std::string& interface, nb::handle query, nb::handle key,
               nb::handle value, const nb::dict& words, std::optional<bool> strict) {
  const std::optional<Interface> documented = interface_of(interface);
  if (!documented) throw Error(ErrorKind::value, "interface", interface, "one of _core.documented_limits()");
  InferenceOptions options;
  options.interface = *documented;
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
