"""Trials of new versions in the words of duly.v1."""

from duly.runtime.running_trial import TrialReport
from duly.v1 import model_pb2


def trial(report: TrialReport) -> model_pb2.Trial:
    """Returns the message for a trial."""
    figures = report.figures
    return model_pb2.Trial(
        name=report.name,
        version=report.version,
        against_version=report.against,
        stage=int(report.stage),  # type: ignore[arg-type]  # equal numbers
        reason=report.reason,
        since_unix_nano=report.since_unix_ns,
        began_unix_nano=report.began_unix_ns,
        frames_compared=figures.frames_compared,
        agreement=figures.agreement,
        agreement_low=figures.agreement_low,
        agreement_high=figures.agreement_high,
        canary_frames=figures.canary_frames,
        canary_on_time=figures.canary_on_time,
        rest_frames=figures.rest_frames,
        rest_on_time=figures.rest_on_time,
        errors=figures.errors,
        frames_not_run=report.shadow.not_run,
        frames_not_drawn=report.shadow.not_drawn,
        canary_pairs=figures.canary_pairs,
        labels=figures.labels.count,
        accuracy=figures.labels.share,
        rest_labels=figures.rest_labels.count,
        rest_accuracy=figures.rest_labels.share,
    )
