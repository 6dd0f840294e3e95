#include <grpcpp/grpcpp.h>

#include <cstring>
#include <utility>

#include "errors.h"
#include "shared.h"

namespace duly {
namespace {

bool begins_with(const std::string& text, const char* beginning) { return text.rfind(beginning, 0) == 0; }

// Whether what is sent to `target` stays on this machine.
bool is_local(const std::string& target) {
    return begins_with(target, "unix:") || begins_with(target, "unix-abstract:") || begins_with(target, "localhost:") ||
           begins_with(target, "[::1]:") || begins_with(target, "127.");
}

template <typename Enum>
const char* name_in(const Enum* descriptor, int number, const char* prefix) {
    const auto* value = descriptor->FindValueByNumber(number);
    return value == nullptr ? "?" : value->name().c_str() + std::strlen(prefix);
}

}  // namespace

Client::Client(std::string target, Settings settings) : connections_(std::make_shared<Connections>()) {
    grpc::ChannelArguments options;
    options.SetMaxReceiveMessageSize(-1);             // the server bounds what it sends
    options.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);       // a frame is never sent twice
    options.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 10'000);
    options.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 5'000);
    options.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
    options.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 1'000);
    options.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 5'000);
    options.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    // Outcomes that nobody reads yet stay with the server, which knows what is stale, not in the transport.
    options.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    options.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 256 * 1024);
    if (is_local(target)) options.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    std::shared_ptr<grpc::ChannelCredentials> credentials = grpc::InsecureChannelCredentials();
    if (settings.tls) {
        credentials = grpc::SslCredentials({settings.tls_ca, settings.tls_key, settings.tls_cert});
    } else if (!settings.token.empty() && !settings.token_in_clear_text && !is_local(target)) {
        connections_->wrong =
            make_error(grpc::INVALID_ARGUMENT, "the token would go to " + target + " in clear text: set tls");
    }
    connections_->channel = grpc::CreateCustomChannel(target, credentials, options);
    connections_->stub = v1::InferenceService::NewStub(connections_->channel);
    connections_->target = std::move(target);
    connections_->settings = std::move(settings);
}

Client::~Client() = default;

const Tensor* Outcome::output(const std::string& name) const {
    for (const Tensor& tensor : outputs) {
        if (tensor.name == name) return &tensor;
    }
    return nullptr;
}

const char* name_of(Class value) {
    return name_in(v1::StreamClass_descriptor(), static_cast<int>(value), "STREAM_CLASS_");
}
const char* name_of(Backlog value) {
    return name_in(v1::BacklogPolicy_descriptor(), static_cast<int>(value), "BACKLOG_POLICY_");
}
const char* name_of(Ordering value) { return name_in(v1::Ordering_descriptor(), static_cast<int>(value), "ORDERING_"); }
const char* name_of(Gap value) { return name_in(v1::GapPolicy_descriptor(), static_cast<int>(value), "GAP_POLICY_"); }
const char* name_of(DataType value) { return name_in(v1::DataType_descriptor(), static_cast<int>(value), "DATA_TYPE_"); }
const char* name_of(Status value) {
    return name_in(v1::OutcomeStatus_descriptor(), static_cast<int>(value), "OUTCOME_STATUS_");
}
const char* name_of(AdviceKind value) {
    return name_in(v1::StreamAdvice::Kind_descriptor(), static_cast<int>(value), "KIND_");
}
const char* name_of(FeedbackStatus value) {
    return name_in(v1::FeedbackStatus_descriptor(), static_cast<int>(value), "FEEDBACK_STATUS_");
}

}  // namespace duly
