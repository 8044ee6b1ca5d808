// Fusion Attention, the C++ interface.
#pragma once

#include "fusion_attention/describe.h"      // what this build holds and this machine allows
#include "fusion_attention/dropout_mask.h"  // the bits of dropout, packed
#include "fusion_attention/error.h"         // Error: argument, given, allowed
#include "fusion_attention/machine.h"       // roofs: what this machine can do at best
#include "fusion_attention/mask.h"          // Band, Overlay: which keys a row sees
#include "fusion_attention/problem.h"       // Problem: what to compute; text, parse, validate
#include "fusion_attention/run.h"           // make_plan, explain, run, run_reference
#include "fusion_attention/scores.h"        // Bias, Dropout, Sink: what joins the scores besides the mask
#include "fusion_attention/tensor.h"        // TensorView, Dtype
#include "fusion_attention/version.h"
