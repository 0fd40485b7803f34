"""Whether the workers of a role get work done, judged by their heartbeats (docs/rules.md §8)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from caselog.workers.telemetry.heartbeat import KEPT_S, Beat, Doing


class Vitals(msgspec.Struct, frozen=True):
    """What the heartbeats of a role say; `hint` where somebody has something to do."""

    is_well: bool
    value: str
    hint: str | None = None


def judge(role: str, beats: Sequence[Beat], limit_s: float) -> Vitals:
    """Judge the workers of a role by `beats`, theirs, youngest first.

    Well: there is one, and each proved work or an empty queue in the last `limit_s` seconds, or says that a person
    paused it. One that hangs among others that work is red, and so is one that vanished, until it is forgotten.
    """
    if not beats:
        return Vitals(is_well=False, value="no heartbeat", hint=f"Start one with: caselog worker {role}; see its log")
    sick = [beat for beat in beats if not beat.is_well(limit_s)]
    paused = next((beat for beat in beats if beat not in sick and beat.is_paused), None)
    tripped = paused is not None and paused.doing is Doing.TRIPPED
    told = [f"{len(beats)} with a heartbeat", *(_fault(beat, limit_s) for beat in sick)]
    if paused is not None:
        told.append(paused.why or "paused")
    elif len(sick) < len(beats):
        last = min(beats, key=lambda beat: beat.proof_age_s)
        told.append(f"the last {'found nothing to do' if last.idle else 'did work'} {last.proof_age_s:.1f} s ago")
    hints = []
    if any(beat.age_s >= limit_s for beat in sick):
        hints.append(
            "A silent worker hangs or was killed: see its log, end it if it is there, and start another; what was "
            f"killed is forgotten after {KEPT_S // 60} minutes"
        )
    if any(beat.age_s < limit_s and beat.doing is Doing.FOLDING for beat in sick):
        hints.append(
            "A rule of an app takes long or never returns: its event becomes a dead letter after the second time, and "
            "the others go on; see the worker's log"
        )
    if any(beat.age_s < limit_s and beat.doing is not Doing.FOLDING for beat in sick):
        hints.append("Workers wait: see the checks of database and broker")
    if paused is not None and paused.why is not None:
        hints.append("To go on recording: caselog resume")
    return Vitals(not sick and not tripped, "; ".join(told), ". ".join(hints) or None)


def _fault(beat: Beat, limit_s: float) -> str:
    name = f"{beat.worker} (process {beat.pid} on {beat.host})"
    if beat.age_s >= limit_s:
        return f"{name} has been silent for {beat.age_s:.1f} s"
    why = f" ({beat.why})" if beat.doing is Doing.REFUSED and beat.why else ""
    doing = beat.why if beat.doing is Doing.FOLDING and beat.why else beat.doing.value
    if beat.doing is Doing.NO_DATABASE and beat.why:  # the database answers, and its schema is another one
        doing = f"waiting ({beat.why})"
    return f"{name} is {doing}, without work for {beat.proof_age_s:.1f} s{why}"
