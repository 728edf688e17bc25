# How demands are decided: flat C arrays, without touching Python, without allocating.

from libc.stdint cimport int32_t, int64_t

from core.kernel._moves cimport Move, Moves
from core.kernel._pool cimport Pool, Quota
from core.kernel._stock cimport Stock

cdef enum State:                    # what a demand's units become
    RESERVED_STATE = 0
    COMMITTED_STATE = 1
    FULFILLED_STATE = 2

cdef struct Part:                   # one line of a demand, the same sku and pin summed
    int64_t quantity
    int32_t line                    # where in the demand it stood first
    int32_t first_candidate         # pool slots in order of preference
    int32_t candidates

cdef struct Wish:                   # one demand
    int32_t channel
    int32_t first_part
    int32_t parts
    int32_t first_take
    int32_t takes
    int32_t first_shortfall
    int32_t shortfalls
    int32_t first_candidate         # of all its parts
    int32_t candidates
    int32_t first_hold
    int32_t holds
    int32_t first_note              # of the moves of a fact
    int32_t notes
    int32_t state
    bint partial
    bint split
    bint fact                       # never refused
    bint known                      # its record exists already
    bint repeats                    # a sku stands in more than one part: takes may share a pool
    bint granted
    bint astray                     # a row does not hold what the record does: one of them is old

cdef struct Take:
    int64_t own
    int64_t borrowed
    int64_t ceiling_number
    int64_t short                   # of a fact: what was missing, part of `borrowed`
    int32_t slot

cdef struct Hold:                   # what a record that is planned again has of a pool
    int64_t own
    int64_t borrowed
    int64_t ceiling_number
    int64_t outdated                # units not taken again yet that spent a ceiling that is gone
    int32_t slot

cdef struct Shortfall:
    int64_t available
    int64_t granted
    int32_t part
    int32_t limit


cdef class Decisions(Stock):
    cdef int _wishes
    cdef int _parts
    cdef int _takes
    cdef int _shortfalls
    cdef int _candidates
    cdef int _holds
    cdef int _notes_max                     # moves that the facts of the stage can make
    cdef int _saved_max                     # pools that one wish can change
    cdef int _part_room
    cdef int _candidate_room
    cdef int _wish_room
    cdef int _take_room
    cdef int _shortfall_room
    cdef int _hold_room
    cdef int _note_room
    cdef int _saved_room
    cdef int _saved_quota_room
    cdef Part *_part
    cdef Wish *_wish
    cdef Take *_take
    cdef Hold *_hold
    cdef Shortfall *_shortfall
    cdef int32_t *_candidate
    cdef Moves _fact                        # what the facts of the stage move
    cdef Pool *_saved
    cdef Quota *_saved_quotas

    cdef void _forget(self) noexcept
    cdef int _grow(self, void **array, int *room, Py_ssize_t size) except -1
    cdef int _make_room(self) except -1
    cdef void _plan_wish(self, Wish *wish) noexcept nogil
    cdef void _lay_open(self, Wish *wish) noexcept nogil
    cdef void _settle(self, Wish *wish) noexcept nogil
    cdef int _place(self, Wish *wish, int number) noexcept nogil
    cdef void _save(self, Wish *wish) noexcept nogil
    cdef void _restore(self, Wish *wish) noexcept nogil
    cdef bint _plan_part(self, Wish *wish, int number) noexcept nogil
    cdef bint _keep(self, Wish *wish, Part *part) noexcept nogil
    cdef void _take_from(self, Wish *wish, int32_t slot, int64_t quantity) noexcept nogil
    cdef int64_t _take_outdated(
        self, Wish *wish, int32_t slot, int64_t quantity) noexcept nogil
    cdef void _take_under(
        self, Wish *wish, int32_t slot, int64_t quantity, int64_t ceiling_number) noexcept nogil
    cdef bint _plan_fact(self, Wish *wish, int number) noexcept nogil
    cdef int32_t _kept(self, Wish *wish) noexcept nogil
    cdef void _give(self, Wish *wish, int32_t slot, int64_t quantity) noexcept nogil
    cdef int64_t _force(self, Wish *wish, int32_t slot, int64_t quantity) noexcept nogil
    cdef void _book(
        self, Wish *wish, int32_t slot, int64_t own, int64_t borrowed, int64_t short
    ) noexcept nogil
    cdef void _told(
        self, Wish *wish, int32_t slot, int64_t ceiling_number, int64_t own, int64_t borrowed,
        bint short) noexcept nogil
    cdef void _fall_short(
        self, Wish *wish, int number, int64_t reach, int64_t granted, int32_t only) noexcept nogil
