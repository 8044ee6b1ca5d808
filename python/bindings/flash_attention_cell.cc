// The acctransformer cell. Its values out of range are Python's ValueError, as that cell raises.
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <string>
#include <tuple>

#include "bindings.h"
#include "fusion_attention/error.h"
#include "fusion_attention/families/flash_attention_cell.h"

namespace nb = nanobind;

namespace fusion_attention {
namespace {

// Takes the GIL back before it throws, as an exception type of Python's must be made with it.
template <class Work>
void without_gil(const Work& work) {
  try {
    nb::gil_scoped_release release;
    work();
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::value) throw nb::value_error(error.what());
    throw;
  }
}

// The nine arguments of the cell's constructor, in its order.
using Words = std::tuple<std::int64_t, double, std::int64_t, std::int64_t, std::string, std::int64_t,
                         std::int64_t, bool, bool>;

FlashAttentionCellOptions options_of(const Words& words) {
  FlashAttentionCellOptions options;
  std::tie(options.head_dim, options.dropout_rate, options.prev_block_num, options.next_block_num,
           options.tiling_stgy_name, options.dp, options.mp, options.have_attention_mask_batch,
           options.alibi) = words;
  return options;
}

void check(const Words& words) {
  without_gil([&] { FlashAttentionCell::check(options_of(words)); });
}

// given: query, key, value, attention_mask, alibi_mask. `whole`: first batch entry, first head, and the
// number of heads of what this call is a slice of.
std::unique_ptr<FlashAttentionCell> construct(bool backward, const Words& words, const nb::tuple& given,
                                              std::uint64_t seed,
                                              std::tuple<std::int64_t, std::int64_t, std::int64_t> whole) {
  if (given.size() != 5) throw nb::type_error("given: got no 5-tuple");
  const Array operands[] = {array_of(given[0]), array_of(given[1]), array_of(given[2])};
  FlashAttentionCellOptions options = options_of(words);
  options.attention_mask = array_of(given[3]);
  options.alibi_mask = array_of(given[4]);
  options.seed = seed;
  std::tie(options.first_batch, options.first_head, options.all_heads) = whole;
  std::unique_ptr<FlashAttentionCell> call;
  without_gil([&] {
    call = std::make_unique<FlashAttentionCell>(backward ? Pass::backward : Pass::forward, operands[0],
                                                operands[1], operands[2], options);
  });
  return call;
}

float* floats(std::uintptr_t address) {
  return static_cast<float*>(pointer(address));
}

void forward(FlashAttentionCell& call, std::uintptr_t out, std::uintptr_t softmax_max,
             std::uintptr_t softmax_sum) {
  without_gil([&] { call.forward(pointer(out), floats(softmax_max), floats(softmax_sum)); });
}

void backward(FlashAttentionCell& call, nb::handle dy, nb::handle out, std::uintptr_t softmax_max,
              std::uintptr_t softmax_sum, std::uintptr_t dq, std::uintptr_t dk, std::uintptr_t dv) {
  const Array arrays[] = {array_of(dy), array_of(out)};
  without_gil([&] {
    call.backward(arrays[0], arrays[1], floats(softmax_max), floats(softmax_sum), pointer(dq), pointer(dk),
                  pointer(dv));
  });
}

// One line for each problem that is computed.
std::vector<std::string> texts(const FlashAttentionCell& call) {
  std::vector<std::string> lines{text(call.problem())};
  for (const Problem& problem : call.more()) lines.push_back(text(problem));
  return lines;
}

}  // namespace

void bind_flash_attention_cell(nb::module_& m) {
  using nb::arg;
  nb::class_<FlashAttentionCell>(m, "FlashAttentionCell")
      .def(nb::new_(&construct), arg("backward"), arg("words"), arg("given"), arg("seed"), arg("whole"))
      .def_static("check", &check, arg("words"))
      .def("forward", &forward)
      .def("backward", &backward)
      .def("notes", &FlashAttentionCell::notes)
      .def("texts", &texts);
}

}  // namespace fusion_attention
