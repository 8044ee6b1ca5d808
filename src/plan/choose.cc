#include "plan/choose.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "arch/cpu.h"
#include "fusion_attention/error.h"

namespace fusion_attention::plan {
namespace {

using kernels::Algorithm, kernels::Row;

constexpr std::int64_t kDecodeRows = 16;  // group × rows that the decode kernel takes

// Measured once per process and row; racing threads measure twice and agree well enough.
double rate_of(const Row& row) {
  static std::atomic<double> rates[128];
  std::atomic<double>& cached = rates[&row - kernels::rows().begin()];
  double rate = cached.load(std::memory_order_relaxed);
  if (rate == 0)
    cached.store(rate = row.backward ? row.backward->rate() : row.forward->rate(), std::memory_order_relaxed);
  return rate;
}

// A row further down the list has wider instructions and takes over unless it is clearly slower: noise
// between two equal rates must not change the kernel, and with it the bits, from one process to the next.
bool displaces(double rate, double best) {
  return rate > 0.9 * best;
}
constexpr std::size_t kNone = ~std::size_t{0};

std::int64_t most_rows(const Problem& problem) {
  std::int64_t rows = 0;
  for (const Sequence& s : problem.sequences) rows = s.rows > rows ? s.rows : rows;
  return rows * problem.group();
}

Algorithm wanted(const Problem& problem) {
  if (problem.pass == Pass::backward) return Algorithm::backward;
  return most_rows(problem) <= kDecodeRows ? Algorithm::decode : Algorithm::forward;
}

const char* name(Algorithm algorithm) {
  constexpr const char* kNames[] = {"forward", "decode", "backward"};
  return kNames[static_cast<int>(algorithm)];
}

// What FUSION_ATTENTION_KERNEL asks of the rows of this problem.
class Request {
 public:
  explicit Request(const Problem& problem) {
    const char* text = std::getenv("FUSION_ATTENTION_KERNEL");
    if (!text || !*text) return;
    text_ = text;
    bool known = false;
    for (const Row& row : kernels::rows()) {
      known |= matches(row);
      const bool backward = row.algorithm == Algorithm::backward;
      if (matches(row) && row.name == text_ && row.dtype == problem.query.dtype &&
          backward == (problem.pass == Pass::backward))
        exact_ = &row;
    }
    if (!known)
      throw Error(ErrorKind::value, "FUSION_ATTENTION_KERNEL", text_,
                  "the name of a kernel row or of an arch");
  }

  bool forced() const { return !text_.empty(); }
  const Row* exact() const { return exact_; }
  bool matches(const Row& row) const { return row.name == text_ || row.arch == text_; }
  // A row's full name forces that row where it fits and its arch elsewhere.
  bool allows(const Row& row) const {
    if (exact_) return &row == exact_;
    if (row.arch == text_) return true;
    for (const Row& other : kernels::rows())
      if (other.name == text_) return std::strcmp(other.arch, row.arch) == 0;
    return false;
  }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
  const Row* exact_ = nullptr;
};

// Why this row is out before any rate is measured; empty when it is a candidate.
std::string unfit(const Row& row, const Problem& problem, const Request& request) {
  if (row.dtype != problem.query.dtype) return std::string("computes ") + fusion_attention::name(row.dtype);
  if (request.exact() == &row) {
    if (row.algorithm == Algorithm::decode && most_rows(problem) > kDecodeRows)
      return "takes at most 16 query rows per kv head";
    return refused(row);
  }
  if (row.algorithm != wanted(problem)) {
    if (row.algorithm == Algorithm::decode && problem.pass == Pass::forward)
      return "takes at most 16 query rows per kv head";
    return std::string("serves ") + name(row.algorithm);
  }
  if (request.forced() && !request.allows(row)) return "FUSION_ATTENTION_KERNEL=" + request.text();
  if (const std::string why = refused(row); !why.empty()) return why;
  if (!request.forced() && std::strcmp(row.arch, "amx_emulated") == 0) return "an emulation, for tests";
  return "";
}

}  // namespace

std::string refused(const Row& row) {
  if (std::strcmp(row.arch, "amx_emulated") == 0) return "";
  for (const arch::Isa isa : arch::kIsas)
    if (std::strcmp(row.arch, arch::name(isa)) == 0) return arch::status(isa).reason;
  return "unknown arch";
}

std::vector<Candidate> weigh(const Problem& problem) {
  const Request request(problem);
  std::vector<Candidate> all;
  std::size_t best = kNone;
  for (const Row& row : kernels::rows()) {
    all.push_back({&row, 0, unfit(row, problem, request)});
    if (!all.back().passed_over.empty()) continue;
    all.back().rate = rate_of(row);
    if (best == kNone || displaces(all.back().rate, all[best].rate)) best = all.size() - 1;
  }
  if (best == kNone) {
    const std::string given =
        request.forced() ? request.text() : std::string("a problem that no kernel row takes");
    throw Error(ErrorKind::value, "FUSION_ATTENTION_KERNEL", given,
                "a row that runs on this CPU for this problem");
  }
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (i == best || !all[i].passed_over.empty()) continue;
    char text[96];
    std::snprintf(text, sizeof text, "%.0f GFLOP/s measured, against %.0f", all[i].rate / 1e9,
                  all[best].rate / 1e9);
    all[i].passed_over = text;
  }
  return all;
}

const Row& choose(const Problem& problem) {
  const Request request(problem);
  const Row* best = nullptr;
  for (const Row& row : kernels::rows())
    if (unfit(row, problem, request).empty() && (!best || displaces(rate_of(row), rate_of(*best))))
      best = &row;
  if (best) return *best;
  weigh(problem);  // throws, with the reason
  std::abort();
}

}  // namespace fusion_attention::plan
