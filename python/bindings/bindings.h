// What the files of the binding share.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <vector>

#include "fusion_attention/families/array.h"

namespace fusion_attention {

inline std::int64_t integer(PyObject* object) {
  const long long value = PyLong_AsLongLong(object);
  if (value == -1 && PyErr_Occurred()) throw nanobind::python_error();
  return value;
}

inline Array array_of(nanobind::handle given) {
  Array array;
  if (given.is_none()) return array;
  if (!PyTuple_Check(given.ptr()) || PyTuple_GET_SIZE(given.ptr()) != 4)
    throw nanobind::type_error("array: got no 4-tuple");
  const auto item = [&given](Py_ssize_t i) { return PyTuple_GET_ITEM(given.ptr(), i); };
  PyObject *shape = item(2), *stride = item(3);
  if (!PyTuple_Check(shape) || !PyTuple_Check(stride))
    throw nanobind::type_error("array: got shapes that are no tuples");
  array.data = reinterpret_cast<void*>(static_cast<std::uintptr_t>(integer(item(0))));
  array.element = static_cast<Element>(integer(item(1)));
  array.rank = static_cast<int>(PyTuple_GET_SIZE(shape));
  if (array.rank > Array::kMaxRank) return array;
  if (PyTuple_GET_SIZE(stride) != array.rank)
    throw nanobind::type_error("array: got a stride count other than the rank");
  for (int axis = 0; axis < array.rank; ++axis) {
    array.shape[static_cast<std::size_t>(axis)] = integer(PyTuple_GET_ITEM(shape, axis));
    array.stride[static_cast<std::size_t>(axis)] = integer(PyTuple_GET_ITEM(stride, axis));
  }
  return array;
}

inline nanobind::tuple tuple_of(const std::vector<std::int64_t>& numbers) {
  PyObject* items = PyTuple_New(static_cast<Py_ssize_t>(numbers.size()));
  if (items == nullptr) throw nanobind::python_error();
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    PyTuple_SET_ITEM(items, static_cast<Py_ssize_t>(i), PyLong_FromLongLong(numbers[i]));
  }
  return nanobind::steal<nanobind::tuple>(items);
}

inline void* pointer(std::uintptr_t address) {
  return reinterpret_cast<void*>(address);
}

void bind_flash_attention_cell(nanobind::module_& m);
void bind_inference(nanobind::module_& m);
void bind_strict(nanobind::module_& m);

}  // namespace fusion_attention
