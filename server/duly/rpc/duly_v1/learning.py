"""How models learn, as the protocol says it."""

from duly.runtime.learning import ModelLearning
from duly.v1 import model_pb2


def learning(name: str, learned: ModelLearning) -> model_pb2.Learning:
    return model_pb2.Learning(
        name=name,
        phase=learned.phase,
        version=learned.version,
        published=learned.published,
        frames=learned.frames,
        labels=learned.labels,
        labels_of_regime=learned.labels_of_regime,
        labels_unusable=learned.unusable_labels,
        attempt=learned.attempt,
        attempt_text=learned.attempt_text,
        figures=learned.figures,
        drifts=learned.drifts,
        attempts=learned.attempts,
        problem=learned.problem,
    )
