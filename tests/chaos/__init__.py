"""Everything at once, by a seed: the same load and the same faults on Warren, Celery and Dramatiq, and then the count.

`python -m tests.chaos --help`, or `make chaos`. The reading order::

    workload    what is submitted: a pure function of seed and key
    plan        what breaks when: a pure function of seed and minutes
    body        what a task does; the effect log that it writes decides
    apps        that body as tasks of each system
    systems     each system: its processes, how it confirms, cancels, and what it can say for itself
    faults      breaks things, and mends them
    driver      submits at an even pace, and cancels
    tally       reads the effect log while it grows
    footprint   memory and file descriptors
    run         one system from its start to its score
    score       the figures and the checks
    report      the terminal
"""
