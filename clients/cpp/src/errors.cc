#include "errors.h"

#include "status.pb.h"

namespace duly {
namespace {

bool ends_with(const std::string& text, const std::string& ending) {
    return text.size() >= ending.size() && text.compare(text.size() - ending.size(), ending.size(), ending) == 0;
}

}  // namespace

bool Error::recoverable() const {
    for (const char* passing : {"MODEL_NOT_READY", "ADMISSION_REFUSED", "ADMISSION_BUSY", "STREAMS_EXHAUSTED",
                                "CALLS_EXHAUSTED", "DRAINING", "DUMP_FAILED", "FEEDBACK_UNAVAILABLE"}) {
        if (reason == passing) return true;
    }
    if (!reason.empty()) return false;
    return code == grpc::UNAVAILABLE || code == grpc::CANCELLED || code == grpc::DEADLINE_EXCEEDED ||
           code == grpc::FAILED_PRECONDITION || code == grpc::RESOURCE_EXHAUSTED;
}

Error make_error(grpc::StatusCode code, std::string message) {
    Error error;
    error.code = code;
    error.message = std::move(message);
    return error;
}

Error error_of(const grpc::Status& status, const std::string& target) {
    if (status.ok()) return make_error(grpc::UNAVAILABLE, "the server ended the stream");
    Error error = make_error(status.error_code(), status.error_message());
    client::Status details;
    if (details.ParseFromString(status.error_details())) {
        for (const client::Detail& detail : details.details()) {
            client::ErrorInfo info;
            client::BadRequest request;
            if (ends_with(detail.type_url(), "/google.rpc.ErrorInfo") && info.ParseFromString(detail.value())) {
                error.reason = info.reason();
                error.metadata.insert(info.metadata().begin(), info.metadata().end());
            } else if (ends_with(detail.type_url(), "/google.rpc.BadRequest") && request.ParseFromString(detail.value())) {
                for (const auto& violation : request.field_violations()) error.fields.push_back(violation.field());
            }
        }
    }
    if (error.reason.empty()) {
        const int code = error.code;
        if (code == grpc::UNAVAILABLE || code == grpc::CANCELLED || code == grpc::DEADLINE_EXCEEDED) {
            error.message = "no answer from " + target + ": " + error.message;
        } else if (code == grpc::UNIMPLEMENTED) {
            error.message = target + " is no duly server, or an older one: " + error.message;
        }
    }
    return error;
}

}  // namespace duly
