// Strict mode: the switch of the environment, the table, and the check of interfaces whose words Python
// reads.
#include "fusion_attention/families/strict.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <string>

#include "bindings.h"
#include "fusion_attention/error.h"

namespace fusion_attention {
namespace {

namespace nb = nanobind;
using Lengths = std::optional<std::vector<std::int64_t>>;

// (key, interfaces, argument, allowed, source) of every row.
nb::list rows() {
  nb::list all;
  for (const DocumentedLimit& limit : documented_limits()) {
    nb::list interfaces;
    for (const Interface interface : limit.interfaces) interfaces.append(nb::str(name(interface)));
    all.append(nb::make_tuple(limit.key, interfaces, limit.argument, limit.allowed, limit.source));
  }
  return all;
}

void refuse(const std::string& interface, bool backward, nb::handle query, nb::handle key, nb::handle value,
            std::int64_t head_num, const std::string& input_layout, nb::handle atten_mask, nb::handle pse,
            std::int64_t pse_type, std::int64_t sparse_mode, Lengths prefix, Lengths actual_seq_qlen,
            Lengths actual_seq_kvlen) {
  const std::optional<Interface> documented = interface_of(interface);
  if (!documented) throw Error(ErrorKind::value, "interface", interface, "one of _core.documented_limits()");
  FusionAttentionOptions options;
  options.head_num = head_num;
  options.input_layout = input_layout;
  options.atten_mask = array_of(atten_mask);
  options.pse = array_of(pse);
  options.pse_type = pse_type;
  options.sparse_mode = sparse_mode;
  options.prefix = std::move(prefix);
  options.actual_seq_qlen = std::move(actual_seq_qlen);
  options.actual_seq_kvlen = std::move(actual_seq_kvlen);
  refuse_undocumented(*documented, backward ? Pass::backward : Pass::forward, array_of(query), array_of(key),
                      array_of(value), options);
}

}  // namespace

void bind_strict(nb::module_& m) {
  using nb::arg;
  m.def("documented_limits", &rows);
  m.def("is_strict", &is_strict, arg("chosen").none());
  m.def("refuse_undocumented", &refuse, arg("interface"), arg("backward"), arg("query"), arg("key"),
        arg("value"), arg("head_num"), arg("input_layout"), arg("atten_mask").none(), arg("pse").none(),
        arg("pse_type"), arg("sparse_mode"), arg("prefix").none(), arg("actual_seq_qlen").none(),
        arg("actual_seq_kvlen").none());
}

}  // namespace fusion_attention
