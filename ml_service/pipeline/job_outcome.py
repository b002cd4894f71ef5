"""How a job ends: what was done of it is written down, whatever happened to it; or it waits for another try."""

from __future__ import annotations

from collections.abc import Callable

from ml_service.common.errors import CANNOT_WRITE_NOW, ServiceError, Unavailable
from ml_service.data.jobs import Claim, Jobs, LeaseLost
from ml_service.pipeline.lease import Lease
from ml_service.pipeline.stage_process import StageFailed, StageKilled
from ml_service.utils.handing_on import CONTEXT, taken_up
from ml_service.utils.logs import EventLogger
from ml_service.utils.tracing import messaging, span

log = EventLogger("worker")


class GivenBack(Exception):
    """The worker ends; another one goes on with the job."""


class Cancelled(Exception):
    """Somebody wanted it to stop, and there was nothing yet to keep."""


def settle(jobs: Jobs, lease: Lease, work: Callable[[Lease], None]) -> str:
    """Do a claimed job and write down how it ended; in a word. Raises nothing."""
    claim = lease.claim
    handed = claim.payload.get(CONTEXT, {})
    facts = messaging(claim.kind, "process", "process") | {"messaging__message__id": str(claim.job_id)}
    with (
        taken_up(handed, job=claim.job_id, kind=claim.kind, experiment=claim.experiment_id) as above,
        # A child rather than a link, as the conventions allow for single messages: one trace shows wish and outcome.
        span(
            f"process {claim.kind}", "consumer", above, **facts, ml_service__experiment=claim.experiment_id,
            ml_service__attempt=claim.attempt, ml_service__request_id=handed.get("request_id"),
        ) as made,
    ):  # fmt: skip
        log.info("job.began", attempt=claim.attempt)
        try:
            outcome = _outcome_of(jobs, lease, work)
        except (LeaseLost, *CANNOT_WRITE_NOW) as reason:
            outcome = f"lost: {reason}"
        if made is not None:
            made.set_attribute("ml_service.outcome", outcome)
        log.info("job.ended", outcome=outcome)
    return outcome


def _outcome_of(jobs: Jobs, lease: Lease, work: Callable[[Lease], None]) -> str:
    """Raises LeaseLost, or why the outcome could not be written: Unavailable, InsufficientStorage."""
    claim = lease.claim
    try:
        work(lease)
    except GivenBack:
        jobs.give_back(claim)
        return "given back"
    except Cancelled:
        lease.persist(lambda session: jobs.end(session, claim, "cancelled"))
        return "cancelled"
    except StageKilled as killed:
        return _again(jobs, claim, str(killed))
    except (StageFailed, ServiceError) as failed:
        if isinstance(failed, Unavailable):
            raise
        reason = str(failed)
        lease.persist(lambda session: jobs.end(session, claim, "failed", reason))
        return f"failed: {reason}"
    except LeaseLost:
        raise
    except Exception as bug:
        log.exception("job.broke", error=type(bug).__name__)
        return _again(jobs, claim, "an error of the service; the worker's log has it")
    return "succeeded"


def _again(jobs: Jobs, claim: Claim, reason: str) -> str:
    is_queued = jobs.try_again(claim, reason)
    return f"{reason}: {'it will be tried again' if is_queued else 'that was the last attempt'}"
