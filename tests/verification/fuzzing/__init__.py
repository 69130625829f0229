"""A differential fuzzer: random small loss programs, each against a vote of ways that have nothing of the library.

    python -m tests.verification.fuzzing --seeds 0:500 [--backend inductor] [--json FILE] [--workers 2] [--minutes 60]

A seed gives a program (``generator``, of ``templates`` and ``slots``), the votes on its quadratics (``references``, of
``derivatives``), and the ways that it is tried (``ways``: captured sweep and adjoint, second calls, vmap, plain, per
example, ...), once captured for all (``trials``). Each gets a verdict (``verdicts``, ``outcomes``); a failure is shrunk
to a few lines that run (``shrinking``), and many seeds, in many processes, make a report (``examined``, ``campaign``,
``report``).

It needs torch alone.
"""
