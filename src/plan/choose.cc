#include "plan/choose.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>

#include "arch/cpu.h"
#include "base/environment.h"
#include "fusion_attention/error.h"

namespace fusion_attention::plan {
namespace {

using kernels::Algorithm, kernels::Row;

// Measured once per process and row; racing threads measure twice and agree well enough. The best of three:
// the first wide instructions after narrow ones run at a fraction of their speed.
double rate_of(const Row& row) {
  static std::vector<std::atomic<double>> rates(
      static_cast<std::size_t>(kernels::rows().end() - kernels::rows().begin()));
  std::atomic<double>& cached = rates[static_cast<std::size_t>(&row - kernels::rows().begin())];
  double rate = cached.load(std::memory_order_relaxed);
  if (rate != 0) return rate;
  const auto measure = row.backward ? row.backward->rate : row.forward->rate;
  for (int i = 0; i < 3; ++i) rate = std::max(rate, measure());
  cached.store(rate, std::memory_order_relaxed);
  return rate;
}

// A row further down the list has wider instructions and is taken unless it is clearly slower: noise between
// two equal rates must not change the kernel, and with it the bits, from one process to the next.
constexpr double kClearly = 0.9;

const char* name(Algorithm algorithm) {
  constexpr const char* kNames[] = {"forward", "decode", "backward", "integer"};
  return kNames[static_cast<int>(algorithm)];
}

// What FUSION_ATTENTION_KERNEL asks for: nothing, an arch, or a row. A row's full name forces that row where
// it fits (a forward row also where a decode row would be taken) and its arch elsewhere.
class Request {
 public:
  Request() {
    const char* text = environment("FUSION_ATTENTION_KERNEL");
    if (!text) return;
    text_ = text;
    for (const Row& row : kernels::rows()) {
      if (text_ == row.name) named_ = &row;
      if (text_ == row.name || text_ == row.arch) arch_ = row.arch;
    }
    if (!arch_)
      throw Error(ErrorKind::value, "FUSION_ATTENTION_KERNEL", text_,
                  "the name of a kernel row or of an arch");
  }

  bool forced() const { return arch_ != nullptr; }
  const std::string& text() const { return text_; }
  bool allows(const Row& row) const { return !arch_ || std::strcmp(arch_, row.arch) == 0; }
  // The row asked for by name, when it serves the same pass and dtype.
  const Row* named(Algorithm algorithm, Dtype dtype) const {
    if (!named_ || named_->dtype != dtype) return nullptr;
    const bool backward = algorithm == Algorithm::backward;
    return backward == (named_->algorithm == Algorithm::backward) ? named_ : nullptr;
  }

 private:
  std::string text_;
  const Row* named_ = nullptr;
  const char* arch_ = nullptr;
};

// Why this row is out before any rate is measured; empty when it is a candidate.
std::string unfit(const Row& row, Algorithm algorithm, Dtype dtype, const Request& request) {
  if (row.dtype != dtype) return std::string("computes ") + fusion_attention::name(row.dtype);
  const Row* named = request.named(algorithm, dtype);
  if (row.algorithm == Algorithm::decode && algorithm == Algorithm::forward)
    return "takes few query rows per kv head";
  if (row.algorithm != algorithm && named != &row) return std::string("serves ") + name(row.algorithm);
  if ((named && named != &row) || !request.allows(row)) return "FUSION_ATTENTION_KERNEL=" + request.text();
  if (const std::string why = refused(row); !why.empty()) return why;
  if (!request.forced() && std::strcmp(row.arch, "amx_emulated") == 0) return "an emulation, for tests";
  return "";
}

// The choices of one thread, valid while the environment says what it said.
struct Remembered {
  std::string kernel, cap;
  const Row* rows[4][5] = {};

  const Row*& at(Algorithm algorithm, Dtype dtype) {
    const auto refresh = [](std::string& held, const char* now) {
      if (held == (now ? now : "")) return false;
      held = now ? now : "";
      return true;
    };
    const bool forced = refresh(kernel, environment("FUSION_ATTENTION_KERNEL"));
    const bool capped = refresh(cap, environment("FUSION_ATTENTION_MAX_ISA"));
    if (forced || capped) std::memset(rows, 0, sizeof rows);
    return rows[static_cast<int>(algorithm)][static_cast<int>(dtype)];
  }
};

}  // namespace

std::string refused(const Row& row) {
  if (std::strcmp(row.arch, "amx_emulated") == 0) return "";
  for (const arch::Isa isa : arch::kIsas)
    if (std::strcmp(row.arch, arch::name(isa)) == 0) return arch::status(isa).reason;
  return "unknown arch";
}

std::vector<Candidate> weigh(Algorithm algorithm, Dtype dtype) {
  const Request request;
  std::vector<Candidate> all;
  double most = 0;
  for (const Row& row : kernels::rows()) {
    all.push_back({&row, 0, unfit(row, algorithm, dtype, request)});
    if (!all.back().passed_over.empty()) continue;
    most = std::max(most, all.back().rate = rate_of(row));
  }
  const auto best = std::find_if(all.rbegin(), all.rend(), [&](const Candidate& candidate) {
    return candidate.passed_over.empty() && candidate.rate >= kClearly * most;
  });
  if (best == all.rend())
    throw Error(ErrorKind::value, "FUSION_ATTENTION_KERNEL",
                request.forced() ? request.text() : std::string("no restriction"),
                std::string("a row that runs on this CPU and serves ") + name(algorithm) + " in " +
                    fusion_attention::name(dtype));
  for (Candidate& candidate : all) {
    if (&candidate == &*best || !candidate.passed_over.empty()) continue;
    char text[96];
    std::snprintf(text, sizeof text, "%.0f GFLOP/s measured, against %.0f", candidate.rate / 1e9,
                  best->rate / 1e9);
    candidate.passed_over = text;
  }
  return all;
}

const Row& choose(Algorithm algorithm, Dtype dtype) {
  thread_local Remembered remembered;
  const Row*& row = remembered.at(algorithm, dtype);
  if (!row)
    for (const Candidate& candidate : weigh(algorithm, dtype))
      if (candidate.passed_over.empty()) row = candidate.row;
  return *row;
}

}  // namespace fusion_attention::plan
