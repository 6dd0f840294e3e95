"""A model for MLServer, named in its model-settings.json. What its adaptive batching put together runs as one."""

from pathlib import Path
from typing import Any

from graph_session import GraphSession  # type: ignore[import-not-found]
from mlserver import MLModel  # type: ignore[import-not-found]
from mlserver.codecs import NumpyCodec  # type: ignore[import-not-found]
from mlserver.types import InferenceResponse  # type: ignore[import-not-found]


class GraphRuntime(MLModel):  # type: ignore[misc]
    """One graph; `parameters.uri` is the folder of its graph.json."""

    async def load(self) -> bool:
        self._session = GraphSession(Path(self.settings.parameters.uri))
        return True

    async def predict(self, payload: Any) -> Any:
        outputs = self._session.run({tensor.name: NumpyCodec.decode_input(tensor) for tensor in payload.inputs})
        tensors = [NumpyCodec.encode_output(name, array) for name, array in outputs.items()]
        return InferenceResponse(model_name=self.name, id=payload.id, outputs=tensors)
