# What a rule moved: each one appends what it does, in order, where anybody asks.

from libc.stdint cimport int32_t, int64_t

cdef enum:
    AT_OUTSIDE = 0                  # accounts, as they are noted; a channel's are these + channel
    AT_SHARED = 1
    AT_SAFETY = 2
    AT_DAMAGED = 3
    AT_QUARANTINE = 4
    AT_DEFICIT = 5
    AT_FREE = 64
    AT_RESERVED = 128
    AT_COMMITTED = 192

    # The most that one verb of stock notes: a transfer, of every channel three times.
    MOVES_MAX = 3 * 64 + 8

cdef struct Move:
    int64_t units
    int32_t slot                    # of the pool, as the caller counts pools
    int32_t source
    int32_t target

cdef struct Moves:
    Move *move                      # with room for all that a caller's rules can note
    int32_t count
    int32_t slot                    # what is noted now happens there

cdef inline void note(Moves *moves, int32_t source, int32_t target, int64_t units) noexcept nogil:
    """Notes a move; of nothing, or where nobody asks (NULL), it notes nothing."""
    cdef Move *move
    if moves == NULL or units == 0:
        return
    move = &moves.move[moves.count]
    move.units = units
    move.slot = moves.slot
    move.source = source
    move.target = target
    moves.count += 1
