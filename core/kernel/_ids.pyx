"""The ids of reservations."""

from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.stdint cimport int64_t
from libc.string cimport memcpy


cdef str make_id(int64_t time_ms, int counter, const unsigned char *bits, int shard):
    """A UUIDv7 (RFC 9562): 48 bits of ms, 12 of counter, 54 random, and the shard in the last 8."""
    cdef unsigned char raw[16]
    cdef char text[36]
    cdef const char *digits = "0123456789abcdef"
    cdef int i, at = 0
    for i in range(6):
        raw[i] = (time_ms >> (40 - 8 * i)) & 0xFF
    raw[6] = 0x70 | ((counter >> 8) & 0x0F)
    raw[7] = counter & 0xFF
    memcpy(raw + 8, bits, 7)
    raw[8] = 0x80 | (raw[8] & 0x3F)
    raw[15] = shard
    for i in range(16):
        if i == 4 or i == 6 or i == 8 or i == 10:
            text[at] = c"-"
            at += 1
        text[at] = digits[raw[i] >> 4]
        text[at + 1] = digits[raw[i] & 15]
        at += 2
    return PyUnicode_DecodeASCII(text, 36, NULL)
