// Load client of duly.v1: see options.cc for its command line, load.cc for how it works.
#include <cstdio>
#include <string>

#include "load.h"
#include "options.h"

namespace {

using duly_load::Histogram;
using duly_load::Options;
using duly_load::Report;

std::string outcome_name(int status) {
  const std::string& name = duly::v1::OutcomeStatus_Name(static_cast<duly::v1::OutcomeStatus>(status));
  return name.substr(sizeof("OUTCOME_STATUS_") - 1);
}

struct Summary {
  int64_t answered = 0;
  double frames_per_s = 0;
  double on_time_per_s = 0;
};

Summary summarise(const Report& report) {
  Summary summary;
  for (const int64_t count : report.tally.outcomes) summary.answered += count;
  if (report.measured_seconds > 0) {
    summary.frames_per_s = static_cast<double>(summary.answered) / report.measured_seconds;
    summary.on_time_per_s =
        static_cast<double>(report.tally.outcomes[duly::v1::OUTCOME_STATUS_ON_TIME]) / report.measured_seconds;
  }
  return summary;
}

void print_json_quantiles(const char* name, const Histogram& histogram) {
  std::printf(",\"%s\":{\"p50\":%.6f,\"p90\":%.6f,\"p99\":%.6f,\"p99.9\":%.6f}", name, histogram.quantile_ms(0.5),
              histogram.quantile_ms(0.9), histogram.quantile_ms(0.99), histogram.quantile_ms(0.999));
}

void print_json(const Report& report) {
  const Summary summary = summarise(report);
  std::printf("{\"sent\":%lld,\"answered\":%lld,\"unanswered\":%lld,\"seconds\":%.6f",
              static_cast<long long>(report.tally.sent), static_cast<long long>(summary.answered),
              static_cast<long long>(report.tally.unanswered), report.measured_seconds);
  std::printf(",\"frames_per_s\":%.3f,\"on_time_per_s\":%.3f,\"outcomes\":{", summary.frames_per_s,
              summary.on_time_per_s);
  for (size_t status = 1; status < report.tally.outcomes.size(); ++status)
    std::printf("%s\"%s\":%lld", status > 1 ? "," : "", outcome_name(static_cast<int>(status)).c_str(),
                static_cast<long long>(report.tally.outcomes[status]));
  std::printf("}");
  print_json_quantiles("latency_ms", report.tally.latency);
  std::printf(",\"lag_p99_ms\":%.6f}\n", report.tally.lag.quantile_ms(0.99));
}

void print_text_quantiles(const char* name, const Histogram& histogram) {
  if (histogram.total() == 0) return;
  std::printf("%-12s p50 %.3f  p90 %.3f  p99 %.3f  p99.9 %.3f ms\n", name, histogram.quantile_ms(0.5),
              histogram.quantile_ms(0.9), histogram.quantile_ms(0.99), histogram.quantile_ms(0.999));
}

void print_text(const Report& report) {
  const Summary summary = summarise(report);
  std::printf("frames       %.1f/s, on time %.1f/s\n", summary.frames_per_s, summary.on_time_per_s);
  std::printf("outcomes    ");
  for (size_t status = 1; status < report.tally.outcomes.size(); ++status)
    if (report.tally.outcomes[status] > 0)
      std::printf(" %s %lld", outcome_name(static_cast<int>(status)).c_str(),
                  static_cast<long long>(report.tally.outcomes[status]));
  std::printf("; unanswered %lld\n", static_cast<long long>(report.tally.unanswered));
  print_text_quantiles("latency", report.tally.latency);
  print_text_quantiles("own lag", report.tally.lag);
}

}  // namespace

int main(int argc, char** argv) {
  const Options options = duly_load::parse_options(argc, argv);
  const Report report = duly_load::run_load(options);
  if (!report.error.empty()) {
    std::fprintf(stderr, "duly_load_client: %s\n", report.error.c_str());
    return 1;
  }
  if (options.json) print_json(report);
  else print_text(report);
  return 0;
}
