#include "api/copies.h"

#include <cstring>

#include "base/half.h"
#include "base/parallel.h"
#include "fusion_attention/error.h"
#include "fusion_attention/run.h"
#include "problem/typed.h"

namespace fusion_attention {
namespace {

void copy_row(const std::byte* from, std::byte* to, const TensorView& a, const TensorView& b) {
  const std::int64_t size = size_of(a.dtype);
  if (a.stride[3] == 1 && b.stride[3] == 1) {
    std::memcpy(to, from, static_cast<std::size_t>(a.channels() * size));
    return;
  }
  for (std::int64_t c = 0; c < a.channels(); ++c)
    std::memcpy(to + c * b.stride[3] * size, from + c * a.stride[3] * size, static_cast<std::size_t>(size));
}

std::byte* row_of(const TensorView& view, std::int64_t batch, std::int64_t head, std::int64_t row) {
  return static_cast<std::byte*>(view.data) +
         (batch * view.stride[0] + head * view.stride[1] + row * view.stride[2]) * size_of(view.dtype);
}

// `channels` of `view` from `first` on.
TensorView channels_of(const TensorView& view, std::int64_t first, std::int64_t channels) {
  TensorView part = view;
  part.shape[3] = channels;
  part.data = static_cast<std::byte*>(view.data) + first * view.stride[3] * size_of(view.dtype);
  return part;
}

template <class T>
void convert_to(const float* from, std::int64_t count, void* to) {
  auto* out = static_cast<T*>(to);
  for (std::int64_t i = 0; i < count; ++i) out[i] = from_float<T>(from[i]);
}

}  // namespace

std::int64_t product(std::initializer_list<std::int64_t> sizes) {
  std::int64_t all = 1;
  for (const std::int64_t size : sizes) {
    if (size == 0) return 0;
    if (__builtin_mul_overflow(all, size, &all))
      throw Error(ErrorKind::memory, "workspace", "more bytes than 64 bits can count", "less");
  }
  return all;
}

TensorView Buffer::contiguous(const TensorView& like) {
  const std::int64_t bytes =
      product({like.shape[0], like.shape[1], like.shape[2], like.shape[3], size_of(like.dtype)});
  TensorView view = described(like, like.channels());
  memory_ = std::make_unique_for_overwrite<std::byte[]>(static_cast<std::size_t>(bytes));
  view.data = memory_.get();
  return view;
}

float* Buffer::floats(std::int64_t count) {
  memory_ = std::make_unique_for_overwrite<std::byte[]>(static_cast<std::size_t>(count) * sizeof(float));
  return reinterpret_cast<float*>(memory_.get());
}

std::uint8_t* Buffer::bytes(std::int64_t count) {
  memory_ = std::make_unique_for_overwrite<std::byte[]>(static_cast<std::size_t>(count));
  return reinterpret_cast<std::uint8_t*>(memory_.get());
}

bool is_contiguous(const TensorView& view) {
  std::int64_t step = 1;
  for (int axis = 3; axis >= 0; --axis) {
    const auto i = static_cast<std::size_t>(axis);
    if (view.shape[i] != 1 && view.stride[i] != step) return false;
    step *= view.shape[i];
  }
  return true;
}

TensorView described(const TensorView& like, std::int64_t channels) {
  TensorView view = like;
  view.data = nullptr;
  view.shape[3] = channels;
  std::int64_t step = 1;
  for (int axis = 3; axis >= 0; --axis) {
    view.stride[static_cast<std::size_t>(axis)] = step;
    step *= view.shape[static_cast<std::size_t>(axis)];
  }
  return view;
}

void copy(const TensorView& from, const TensorView& to) {
  const std::int64_t heads = from.heads(), rows = from.rows();
  parallel_for(from.batches() * rows, thread_count(), [&](std::int64_t task, int) {
    const std::int64_t batch = task / rows, row = task % rows;
    for (std::int64_t head = 0; head < heads; ++head)
      copy_row(row_of(from, batch, head, row), row_of(to, batch, head, row), from, to);
  });
}

TensorView joined(const TensorView& a, const TensorView& b, Buffer& buffer) {
  const TensorView all = buffer.contiguous(described(a, a.channels() + b.channels()));
  copy(a, channels_of(all, 0, a.channels()));
  copy(b, channels_of(all, a.channels(), b.channels()));
  return all;
}

void split(const TensorView& joined, const TensorView& a, const TensorView& b) {
  copy(channels_of(joined, 0, a.channels()), a);
  if (b.data) copy(channels_of(joined, a.channels(), b.channels()), b);
}

void convert(const float* from, std::int64_t count, Dtype dtype, void* to) {
  with_floating_type(dtype, [&](auto type) { convert_to<decltype(type)>(from, count, to); });
}

}  // namespace fusion_attention
