// Labels as they go on the wire.
#pragma once

#include <cstddef>
#include <vector>

#include "duly/duly.h"
#include "duly/v1/inference.pb.h"

namespace duly {

// One message has labels of no more frames or bytes, and no more labels; more go in several.
constexpr std::size_t feedback_items_max = 1024;
constexpr std::size_t feedback_bytes_max = std::size_t{2} << 20;
constexpr std::size_t feedback_labels_max = 4096;

// Makes the messages with these labels, in their order.
std::vector<v1::FeedbackRequest> feedback_requests(const std::vector<Feedback>& items);
// A status that this client does not know becomes `pending`.
FeedbackResult result_of(const v1::FeedbackResult& message);

}  // namespace duly
