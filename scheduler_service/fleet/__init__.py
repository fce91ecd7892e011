"""What the scheduler knows of the world outside the store: bounded by the windows and the number of workers.

No I/O and no clock in here: time is passed in, as seconds of a monotonic clock.
"""
