#include "feedback.h"

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <string>
#include <utility>

#include "errors.h"
#include "shared.h"

namespace duly {
namespace {

// What a class is called, unless the model says otherwise.
constexpr const char* class_label = "label";
// A call that is answered later has failed.
constexpr std::chrono::seconds call_timeout{30};

v1::FrameFeedback message_of(const Feedback& item) {
    v1::FrameFeedback message;
    message.set_stream_key(item.stream_key);
    message.set_frame_id(item.frame_id);
    message.set_weight(item.weight);
    message.set_source(item.source);
    for (const Tensor& label : item.labels) {
        v1::Tensor* tensor = message.add_labels();
        tensor->set_name(label.name);
        tensor->set_datatype(static_cast<v1::DataType>(label.type));
        for (const std::int64_t extent : label.shape) tensor->add_shape(extent);
        tensor->set_data(label.data);
    }
    return message;
}

}  // namespace

Tensor class_number(std::int64_t number) {
    std::string data;
    for (int nth = 0; nth < 8; ++nth) data.push_back(static_cast<char>(static_cast<std::uint64_t>(number) >> 8 * nth));
    return Tensor{class_label, DataType::int64, {}, std::move(data)};
}

Tensor class_name(const std::string& name) { return Tensor{class_label, DataType::string, {}, text_data({name})}; }

std::vector<v1::FeedbackRequest> feedback_requests(const std::vector<Feedback>& items) {
    std::vector<v1::FeedbackRequest> requests;
    std::size_t bytes = 0, labels = 0;
    for (const Feedback& item : items) {
        v1::FrameFeedback message = message_of(item);
        const std::size_t size = message.ByteSizeLong(), count = item.labels.size();
        if (requests.empty() || requests.back().items_size() >= static_cast<int>(feedback_items_max) ||
            bytes + size > feedback_bytes_max || labels + count > feedback_labels_max) {
            requests.emplace_back();
            bytes = labels = 0;
        }
        *requests.back().add_items() = std::move(message);
        bytes += size;
        labels += count;
    }
    return requests;
}

FeedbackResult result_of(const v1::FeedbackResult& message) {
    const bool known = v1::FeedbackStatus_IsValid(message.status()) && message.status() != 0;
    return FeedbackResult{known ? static_cast<FeedbackStatus>(message.status()) : FeedbackStatus::pending, message.reason()};
}

std::vector<FeedbackResult> Client::feedback(const std::vector<Feedback>& items, Error* error) {
    std::vector<FeedbackResult> results;
    *error = connections_->wrong;
    if (*error) return results;
    for (const v1::FeedbackRequest& request : feedback_requests(items)) {
        grpc::ClientContext context;
        connections_->show_token(&context);
        context.set_deadline(std::chrono::system_clock::now() + call_timeout);
        v1::FeedbackResponse response;
        const grpc::Status status = connections_->stub->Feedback(&context, request, &response);
        if (!status.ok()) {
            *error = error_of(status, connections_->target);
            break;
        }
        for (const v1::FeedbackResult& result : response.results()) results.push_back(result_of(result));
    }
    return results;
}

}  // namespace duly
