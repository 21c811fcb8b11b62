"""The states of a pod: which directory it is in, and whether somebody holds its lock.

docs/devel/pod-lifecycle.md is the specification (after rkt-internals section 4).
"""

from __future__ import annotations

EMBRYO = "embryo"
PREPARE = "prepare"
PREPARED = "prepared"
RUN = "run"
EXITED_GARBAGE = "exited-garbage"
GARBAGE = "garbage"

SEARCH_ORDER = (EMBRYO, PREPARE, PREPARED, RUN, EXITED_GARBAGE, GARBAGE)
"""Where a pod is looked for; the order in which it moves, so that a racing rename is not missed."""

STATES = {
    (EMBRYO, True): "embryo",
    (EMBRYO, False): "embryo",
    (PREPARE, True): "preparing",
    (PREPARE, False): "aborted prepare",
    (PREPARED, True): "prepared",
    (PREPARED, False): "prepared",
    (RUN, True): "running",
    (RUN, False): "exited",
    (EXITED_GARBAGE, True): "exited deleting",
    (EXITED_GARBAGE, False): "exited garbage",
    (GARBAGE, True): "deleting",
    (GARBAGE, False): "garbage",
}

MOVES = {
    EMBRYO: (PREPARE, GARBAGE),
    PREPARE: (PREPARED, RUN, GARBAGE),
    PREPARED: (RUN, GARBAGE),
    RUN: (EXITED_GARBAGE,),
    EXITED_GARBAGE: (),
    GARBAGE: (),
}

VISIBLE = (PREPARE, PREPARED, RUN, EXITED_GARBAGE)
"""Directories whose pods commands show and accept, in the order of SEARCH_ORDER."""

ENDED = ("exited", "exited garbage", "exited deleting", "deleting")

DELETING = ("exited deleting", "deleting")
