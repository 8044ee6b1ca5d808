#pragma once

#define FUSION_ATTENTION_VERSION "0.1.0"
