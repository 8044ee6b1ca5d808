// Masks of the inference interfaces that no strides describe: the tree of sparse_mode 9, and a mask over
// padded tensors whose sequences begin at rows and keys of their own.
#pragma once

#include <cstdint>

#include "api/copies.h"
#include "api/inference_spelling.h"
#include "problem/layout.h"

namespace fusion_attention {

// [B, Sq, Sq], packed [Σ sq²] one sequence behind the other. Throws Error.
void check_tree_mask(const Spelling& spelling, const Array& mask, Layout layout, const Problem& problem);

// Of every sequence [longest rows, longest keys], entry s of the batch axis: all keys before the last sq are
// shown, of those what the tree shows.
Overlay tree_overlay(const Array& mask, const Problem& problem, Buffer& buffer);

// Whether a sequence begins elsewhere than at row 0 and key 0 of its batch entry.
bool has_windows(const Problem& problem);

// The mask of each sequence's own rows and keys, from one over the padded tensors. Dense layouts.
Overlay window_overlay(const Overlay& mask, const Problem& problem, Buffer& buffer);

// A problem whose overlay has a plane per packed sequence. An Overlay goes by the batch entry, so each
// sequence is a problem of its own, with its rows of query and output; rows behind the last one are zero. The
// output is written when all of them have run, so that a failure leaves it untouched.
void run_each(const Problem& whole);

}  // namespace fusion_attention
