"""MLServer's stubs and converters: its own types in, its own types out. Its messages know nothing of Triton's."""

import checking
import grpc
import numpy as np
from checking import PATIENCE_S, Server, only
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.grpc.converters import ModelInferRequestConverter, ModelInferResponseConverter
from mlserver.grpc.converters import ModelMetadataResponseConverter as MetadataConverter
from mlserver.grpc.dataplane_pb2 import (
    ModelMetadataRequest,
    ModelReadyRequest,
    ServerLiveRequest,
    ServerMetadataRequest,
    ServerReadyRequest,
)
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from mlserver.types import InferenceRequest

SIXTEEN = np.arange(16, dtype=np.int32)


def stub(server: Server) -> GRPCInferenceServiceStub:
    return GRPCInferenceServiceStub(grpc.insecure_channel(server.address))


def a_and_b() -> InferenceRequest:
    arrays = {"a": SIXTEEN, "b": np.ones_like(SIXTEEN)}
    inputs = [NumpyCodec.encode_input(name, array.reshape(1, 16)) for name, array in arrays.items()]
    return InferenceRequest(id="it", inputs=inputs)


def check_what_it_says_of_itself(server: Server) -> None:
    ask = stub(server)
    assert ask.ServerLive(ServerLiveRequest()).live
    assert ask.ServerReady(ServerReadyRequest()).ready
    assert ask.ModelReady(ModelReadyRequest(name="add_sub")).ready
    assert ask.ServerMetadata(ServerMetadataRequest()).name
    said = MetadataConverter.to_types(ask.ModelMetadata(ModelMetadataRequest(name="add_sub")))
    first = said.inputs[0]
    assert (first.name, first.datatype, first.shape) == ("a", "INT32", [-1, 16])


def is_added(server: Server, raw: bool) -> None:
    request = ModelInferRequestConverter.from_types(a_and_b(), model_name="add_sub", use_raw=raw)
    said = ModelInferResponseConverter.to_types(stub(server).ModelInfer(request, timeout=PATIENCE_S))
    assert (said.id, said.model_name) == ("it", "add_sub")
    arrays = {each.name: NumpyCodec.decode_output(each) for each in said.outputs}
    assert np.array_equal(arrays["sum"], [SIXTEEN + 1])
    assert np.array_equal(arrays["difference"], [SIXTEEN - 1])


def check_infer(server: Server) -> None:
    is_added(server, raw=False)


@only("duly", "Triton refuses contents beside raw data even where nothing is in them, as MLServer sends them")
def check_raw_beside_empty_contents(server: Server) -> None:
    is_added(server, raw=True)


def check_strings(server: Server) -> None:
    made = StringCodec.encode_input("in_string", ["eins", "", "drei"])
    made.shape = [1, 3]
    message = ModelInferRequestConverter.from_types(InferenceRequest(inputs=[made]), model_name="text")
    said = ModelInferResponseConverter.to_types(stub(server).ModelInfer(message, timeout=PATIENCE_S))
    assert said.outputs[0].shape == [1, 3]
    assert [each.decode() for each in said.outputs[0].data.root] == ["eins", "", "drei"]


def check_an_error(server: Server) -> None:
    request = ModelInferRequestConverter.from_types(a_and_b(), model_name="nobody")
    answer = stub(server).ModelInfer.future(request, timeout=PATIENCE_S)
    assert answer.code() is grpc.StatusCode.NOT_FOUND
    assert "nobody" in answer.details()


if __name__ == "__main__":
    checking.run(globals())
