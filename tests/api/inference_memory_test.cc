// Memory of an inference call: nothing is followed or written before every pointer has been looked at.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "fusion_attention/error.h"
#include "fusion_attention/families/inference.h"

namespace fusion_attention {
namespace {

using Shape = std::vector<std::int64_t>;

// A tree of two rows over two pages of int8, beside rope channels; every tensor in memory of its own.
class Memory : public testing::Test {
 protected:
  Memory() {
    InferenceOptions& o = options_;
    StoredKeys& s = o.stored;
    o.num_heads = 2, o.num_key_value_heads = 1, o.input_layout = "BNSD", o.scale = 0.1, o.strict = false;
    o.actual_seq_lengths_kv = {6};
    o.sparse_mode = 9;
    query_ = made({1, 2, 2, 8}, Element::float32);
    key_ = made({2, 1, 4, 8}, Element::int8);
    value_ = made({2, 1, 4, 8}, Element::int8);
    s.query_rope = made({1, 2, 2, 8}, Element::float32);
    s.key_rope = made({2, 1, 4, 8}, Element::float32);
    s.block_table = made({1, 2}, Element::int32);
    s.block_size = 4;
    s.key_antiquant_scale = made({1}, Element::float32);
    s.value_antiquant_scale = made({1}, Element::float32);
    s.key_antiquant_offset = made({1}, Element::float32);
    s.value_antiquant_offset = made({1}, Element::float32);
    o.atten_mask = made({1, 2, 2}, Element::boolean);
    o.pse_shift = made({1, 2, 2, 6}, Element::float32);
    o.learnable_sink = made({2}, Element::float32);
  }

  Array made(const Shape& shape, Element element) {
    std::int64_t bytes = size_of(element);
    for (const std::int64_t size : shape) bytes *= size;
    memory_.emplace_back(static_cast<std::size_t>(bytes + 8), std::byte{0});
    return contiguous_array(memory_.back().data(), element, shape.data(), static_cast<int>(shape.size()));
  }

  // The argument that the call is refused for; "" where it computes.
  std::string refused(void* out) {
    try {
      InferenceAttention(query_, key_, value_, options_).forward(out, nullptr);
    } catch (const Error& error) {
      return error.argument();
    }
    return "";
  }

  std::vector<std::pair<std::string, Array*>> tensors() {
    StoredKeys& s = options_.stored;
    return {{"query", &query_},
            {"key", &key_},
            {"value", &value_},
            {"query_rope", &s.query_rope},
            {"key_rope", &s.key_rope},
            {"block_table", &s.block_table},
            {"key_antiquant_scale", &s.key_antiquant_scale},
            {"value_antiquant_scale", &s.value_antiquant_scale},
            {"key_antiquant_offset", &s.key_antiquant_offset},
            {"value_antiquant_offset", &s.value_antiquant_offset},
            {"atten_mask", &options_.atten_mask},
            {"pse_shift", &options_.pse_shift},
            {"learnable_sink", &options_.learnable_sink}};
  }

  std::vector<std::vector<std::byte>> memory_;
  Array query_, key_, value_;
  InferenceOptions options_{Interface::npu_fused_infer_attention_score};
};

TEST_F(Memory, NoTensorWithoutMemoryIsRead) {
  std::vector<float> out(32, 7.0F);
  EXPECT_EQ(refused(out.data()), "");
  std::fill(out.begin(), out.end(), 7.0F);
  for (const auto& [name, tensor] : tensors()) {
    void* const data = tensor->data;
    tensor->data = nullptr;
    EXPECT_NO_THROW(InferenceAttention(query_, key_, value_, options_)) << "a call may be checked without";
    EXPECT_EQ(refused(out.data()), name);
    tensor->data = data;
  }
  EXPECT_EQ(out, std::vector<float>(32, 7.0F));
  EXPECT_EQ(refused(nullptr), "attention_out");
}

TEST_F(Memory, NoMisalignedTensorIsRead) {
  std::vector<float> out(32);
  for (const auto& [name, tensor] : tensors()) {
    if (size_of(tensor->element) == 1) continue;
    void* const data = tensor->data;
    tensor->data = static_cast<std::byte*>(data) + 1;
    EXPECT_EQ(refused(out.data()), name);
    tensor->data = data;
  }
}

TEST_F(Memory, CopiesThatNoMemoryHoldsAreRefused) {
  options_.sparse_mode = 0;
  options_.pse_shift = options_.atten_mask = {};
  options_.actual_seq_lengths_kv = {0};
  for (Array* array : {&query_, &options_.stored.query_rope}) {
    array->shape = {1, 2, std::int64_t{1} << 61, 8};
    array->stride = {0, 0, 0, 1};
  }
  float out = 0;
  EXPECT_NE(refused(&out), "");
}

}  // namespace
}  // namespace fusion_attention
