"""How models learn, as the protocol says it."""

from duly.runtime.learning import ModelLearning
from duly.v1 import model_pb2


def learning(name: str, learned: ModelLearning) -> model_pb2.Learning:
    """Returns the message for a model."""
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
        figures=[model_pb2.LearningFigure(name=of, value=value) for of, value in learned.figures.items()],
        drifts=[model_pb2.LearningCount(name=of, count=times) for of, times in learned.drifts.items()],
        attempts=[model_pb2.LearningCount(name=of, count=times) for of, times in learned.attempts.items()],
        problem=learned.problem,
        last_drifts=[
            model_pb2.LearningDrift(signal=each.signal, seen_unix_nano=each.unix_ns, stream=each.stream, text=each.text)
            for each in learned.last_drifts
        ],
    )
