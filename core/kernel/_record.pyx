"""The record of a new reservation as text; ``lua/parts/records.lua`` says what its words are."""

from core.kernel._decide cimport FULFILLED_STATE, RESERVED_STATE, Take
from core.kernel._pool cimport put_number, put_text


cdef char *put_head(char *at, int state, int64_t time_ms, bytes tail) noexcept:
    if state == RESERVED_STATE:
        at = put_text(put_number(put_text(at, b"R 1 - "), time_ms), b" - - ")
    else:
        at = put_text(at, b"F 1 - - " if state == FULFILLED_STATE else b"C 1 - - ")
        at = put_text(put_number(at, time_ms), b" - ")
    return put_text(at, tail)


cdef char *put_take(char *at, bytes pool, Take *taken, int state) noexcept:
    cdef int64_t shipped = taken.own + taken.borrowed if state == FULFILLED_STATE else 0
    at = put_text(put_text(put_text(at, b" "), pool), b"@")
    at = put_number(put_text(put_number(at, taken.own), b","), taken.borrowed)
    if shipped or taken.ceiling_number or taken.short:
        at = put_number(put_text(at, b","), shipped)
        at = put_number(put_text(at, b",0,0,"), taken.ceiling_number)
        if taken.short:
            at = put_number(put_text(at, b","), taken.short)
    return at
