// Errors of calls as the application sees them.
#pragma once

#include <grpcpp/support/status.h>

#include <string>

#include "duly/duly.h"

namespace duly {

// Makes an error of the status that ended a call to `target`.
Error error_of(const grpc::Status& status, const std::string& target);
Error make_error(grpc::StatusCode code, std::string message);

}  // namespace duly
