// kserve_stub HOST:PORT: asks a server of the KServe v2 protocol for what its stub has, by the model `add_sub` of
// tests/peers/kserve/repository.py. Ends with 0 where all is as it should be, else says what is not.

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <string>
#include <vector>

#include <grpcpp/grpcpp.h>

#include "inference/inference.grpc.pb.h"

namespace {

using inference::GRPCInferenceService;

constexpr int kWidth = 16;
constexpr int kFrames = 100;
constexpr int kPatienceSeconds = 60;

void Check(bool holds, const std::string& what) {
  if (!holds) {
    std::cerr << what << std::endl;
    std::exit(1);
  }
}

void CheckOk(const grpc::Status& status, const std::string& what) {
  Check(status.ok(), what + ": " + std::to_string(status.error_code()) + " " + status.error_message());
}

void SetDeadline(grpc::ClientContext* context) {
  context->set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(kPatienceSeconds));
}

// a is `first`, first + 1, ... and b is 1.
inference::ModelInferRequest Request(const std::string& id, int32_t first, bool raw) {
  inference::ModelInferRequest request;
  request.set_model_name("add_sub");
  request.set_id(id);
  for (const char* name : {"a", "b"}) {
    auto* input = request.add_inputs();
    input->set_name(name);
    input->set_datatype("INT32");
    input->add_shape(1);
    input->add_shape(kWidth);
    std::vector<int32_t> numbers(kWidth);
    for (int i = 0; i < kWidth; ++i) numbers[i] = *name == 'a' ? first + i : 1;
    if (raw) {
      request.add_raw_input_contents(numbers.data(), numbers.size() * sizeof(int32_t));
    } else {
      for (int32_t number : numbers) input->mutable_contents()->add_int_contents(number);
    }
  }
  // As tritonclient's C++ sends it with every request.
  (*request.mutable_parameters())["triton_enable_empty_final_response"].set_bool_param(false);
  return request;
}

void CheckAdded(const inference::ModelInferResponse& response, const std::string& id, int32_t first) {
  Check(response.id() == id, "the id is '" + response.id() + "', should be '" + id + "'");
  Check(response.outputs_size() == 2 && response.outputs(0).name() == "sum", "there should be two outputs, sum first");
  Check(response.raw_output_contents_size() == 2, "each output should have its data");
  const std::string& sum = response.raw_output_contents(0);
  Check(sum.size() == kWidth * sizeof(int32_t), "sum has " + std::to_string(sum.size()) + " bytes");
  for (int i = 0; i < kWidth; ++i) {
    int32_t number;
    std::memcpy(&number, sum.data() + i * sizeof(int32_t), sizeof(int32_t));
    Check(number == first + i + 1, "sum is wrong");
  }
}

void Health(GRPCInferenceService::Stub* stub) {
  grpc::ClientContext context;
  SetDeadline(&context);
  inference::ServerLiveResponse response;
  CheckOk(stub->ServerLive(&context, inference::ServerLiveRequest(), &response), "ServerLive");
  Check(response.live(), "the server is not live");
}

void Metadata(GRPCInferenceService::Stub* stub) {
  grpc::ClientContext context;
  SetDeadline(&context);
  inference::ModelMetadataRequest request;
  inference::ModelMetadataResponse response;
  request.set_name("add_sub");
  CheckOk(stub->ModelMetadata(&context, request, &response), "ModelMetadata");
  Check(response.inputs_size() == 2 && response.inputs(0).datatype() == "INT32", "add_sub takes two INT32");
  Check(response.inputs(0).shape_size() == 2 && response.inputs(0).shape(0) == -1, "the batch comes first");

  grpc::ClientContext other;
  SetDeadline(&other);
  request.set_name("nobody");
  const grpc::Status status = stub->ModelMetadata(&other, request, &response);
  Check(status.error_code() == grpc::StatusCode::NOT_FOUND, "nobody should be NOT_FOUND");
}

void Infer(GRPCInferenceService::Stub* stub) {
  for (bool raw : {true, false}) {
    grpc::ClientContext context;
    SetDeadline(&context);
    context.set_compression_algorithm(raw ? GRPC_COMPRESS_NONE : GRPC_COMPRESS_GZIP);
    inference::ModelInferResponse response;
    CheckOk(stub->ModelInfer(&context, Request("one", 5, raw), &response), "ModelInfer");
    CheckAdded(response, "one", 5);
  }
}

void Stream(GRPCInferenceService::Stub* stub) {
  grpc::ClientContext context;
  SetDeadline(&context);
  auto stream = stub->ModelStreamInfer(&context);
  for (int frame = 0; frame < kFrames; ++frame) {
    Check(stream->Write(Request(std::to_string(frame), frame, true)), "the stream broke off");
  }
  Check(stream->WritesDone(), "the stream broke off");
  inference::ModelStreamInferResponse response;
  for (int frame = 0; frame < kFrames; ++frame) {
    Check(stream->Read(&response), "the stream ended after " + std::to_string(frame) + " answers");
    Check(response.error_message().empty(), response.error_message());
    CheckAdded(response.infer_response(), std::to_string(frame), frame);
  }
  Check(!stream->Read(&response), "there is an answer too many");
  CheckOk(stream->Finish(), "ModelStreamInfer");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: kserve_stub HOST:PORT" << std::endl;
    return 2;
  }
  auto stub = GRPCInferenceService::NewStub(grpc::CreateChannel(argv[1], grpc::InsecureChannelCredentials()));
  Health(stub.get());
  Metadata(stub.get());
  Infer(stub.get());
  Stream(stub.get());
  return 0;
}
