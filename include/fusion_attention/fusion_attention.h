// Fusion Attention, the C++ interface.
#pragma once

#include "fusion_attention/error.h"    // Error: argument, given, allowed
#include "fusion_attention/machine.h"  // roofs: the best this machine can do
#include "fusion_attention/mask.h"     // Band, Overlay: which keys a row sees
#include "fusion_attention/problem.h"  // Problem: what to compute; text, parse, validate
#include "fusion_attention/run.h"      // plan, run, run_reference
#include "fusion_attention/tensor.h"   // TensorView, Dtype
#include "fusion_attention/version.h"
