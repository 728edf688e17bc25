from libc.stdint cimport int64_t

from core.kernel._decide cimport Take

cdef enum:
    HEAD_BYTES = 48         # at most: a letter, a time, what is absent; `tail` comes on top
    TAKE_BYTES = 128        # at most: five numbers and what stands between them, without the pool

# What a new record begins with. `time_ms`: its deadline if it is reserved, else when it was sold.
cdef char *put_head(char *at, int state, int64_t time_ms, bytes tail) noexcept
# One line of it. Both return where the text ends.
cdef char *put_take(char *at, bytes pool, Take *taken, int state) noexcept
