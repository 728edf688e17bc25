"""A record as the JSON that the API answers, in one pass over its bytes.

This is ``wording`` for the hot path: parsing into objects and encoding those costs eight
microseconds a reservation, this one. The words of a record are described in
``lua/parts/records.lua``; free text was percent-encoded, so whatever needs escaping is visible.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcpy, strlen
from libc.time cimport gmtime_r, time_t, tm

cdef enum:
    HEAD_WORDS = 9
    HEAD_BYTES = 640        # member names, id, four times, numbers
    LINE_BYTES = 256        # member names and six numbers of a line, next to its own words

cdef int64_t NUMBER_MAX = 2**53 - 1
cdef int64_t TIME_MAX_MS = 253402300799999


cdef const char *_state(char letter) noexcept nogil:
    if letter == c"R":
        return "reserved"
    if letter == c"C":
        return "committed"
    if letter == c"F":
        return "fulfilled"
    if letter == c"T":
        return "returned"
    if letter == c"L":
        return "released"
    if letter == c"X":
        return "expired"
    if letter == c"K":
        return "cancelled"
    return NULL


cdef inline char *_text(char *at, const char *text) noexcept nogil:
    cdef size_t length = strlen(text)
    memcpy(at, text, length)
    return at + length


cdef inline char *_copy(char *at, const char *text, Py_ssize_t length) noexcept nogil:
    memcpy(at, text, length)
    return at + length


cdef int64_t _number(const char *at, const char *end, const char **rest) noexcept nogil:
    """A decimal number; `rest` points behind it. One that is too large for the store's arithmetic
    is NUMBER_MAX + 1, however large it is."""
    cdef int64_t value = 0
    while at < end and c"0" <= at[0] <= c"9":
        value = value * 10 + (at[0] - c"0")
        if value > NUMBER_MAX:
            value = NUMBER_MAX + 1
        at += 1
    rest[0] = at
    return value


cdef char *_put(char *at, const char *name, int64_t value) noexcept nogil:
    """A member's name as it stands, and its decimal number, not negative."""
    cdef char digits[20]
    cdef int n = 0
    at = _text(at, name)
    while value or not n:
        digits[n] = <char>(c"0" + value % 10)
        value //= 10
        n += 1
    while n:
        n -= 1
        at[0] = digits[n]
        at += 1
    return at


cdef inline char *_digits(char *at, int value, int width, char then) noexcept nogil:
    """A decimal number of so many digits, and what follows it."""
    cdef int i
    for i in range(width - 1, -1, -1):
        at[i] = <char>(c"0" + value % 10)
        value //= 10
    at[width] = then
    return at + width + 1


cdef char *_time(char *at, int64_t time_ms) noexcept nogil:
    """``"2026-11-22T12:00:00.000Z"`` with its quotes; at most the end of the year 9999."""
    cdef tm parts
    cdef time_t seconds
    if time_ms > TIME_MAX_MS:
        time_ms = TIME_MAX_MS
    seconds = time_ms // 1000
    gmtime_r(&seconds, &parts)
    at[0] = c"\""
    at = _digits(at + 1, parts.tm_year + 1900, 4, c"-")
    at = _digits(at, parts.tm_mon + 1, 2, c"-")
    at = _digits(at, parts.tm_mday, 2, c"T")
    at = _digits(at, parts.tm_hour, 2, c":")
    at = _digits(at, parts.tm_min, 2, c":")
    at = _digits(at, parts.tm_sec, 2, c".")
    at = _digits(at, <int>(time_ms % 1000), 3, c"Z")
    at[0] = c"\""
    return at + 1


cdef char *_time_or_null(char *at, const char *word, const char *end) noexcept nogil:
    cdef const char *rest
    if word[0] == c"-":
        return _text(at, "null")
    return _time(at, _number(word, end, &rest))


cdef inline int _hex(char digit) noexcept nogil:
    return digit - c"0" if digit <= c"9" else digit - c"A" + 10


cdef char *_free_text(char *at, const char *word, const char *end) noexcept nogil:
    """A percent-encoded word as a JSON string; ``-`` alone is null. At most 2 × the word."""
    cdef char byte
    if end - word == 1 and word[0] == c"-":
        return _text(at, "null")
    at[0] = c"\""
    at += 1
    while word < end:
        byte = word[0]
        if byte == c"%" and end - word >= 3:
            byte = <char>(_hex(word[1]) * 16 + _hex(word[2]))
            word += 2
        word += 1
        if byte == c"\"" or byte == c"\\":
            at[0] = c"\\"
            at += 1
        at[0] = byte
        at += 1
    at[0] = c"\""
    return at + 1


cdef char *_line(char *at, const char *word, const char *end) noexcept nogil:
    """``sku@location@own,borrowed[,fulfilled,cancelled,returned,ceiling[,short]]``; NULL if not."""
    cdef const char *location = <const char *>memchr(word, c"@", end - word)
    cdef const char *body
    cdef const char *rest
    cdef int64_t numbers[7]
    cdef int i
    if location == NULL:
        return NULL
    body = <const char *>memchr(location + 1, c"@", end - location - 1)
    if body == NULL:
        return NULL
    rest = body
    for i in range(7):
        numbers[i] = 0
        if rest < end:
            numbers[i] = _number(rest + 1, end, &rest)
        if numbers[i] > NUMBER_MAX:
            return NULL
    at = _text(at, "{\"sku\":\"")
    at = _copy(at, word, location - word)
    at = _text(at, "\",\"location\":\"")
    at = _copy(at, location + 1, body - location - 1)
    at = _put(at, "\",\"quantity\":", numbers[0] + numbers[1])
    at = _put(at, ",\"own\":", numbers[0])
    at = _put(at, ",\"borrowed\":", numbers[1])
    at = _put(at, ",\"fulfilled\":", numbers[2])
    at = _put(at, ",\"cancelled\":", numbers[3])
    at = _put(at, ",\"returned\":", numbers[4])
    if numbers[6]:
        at = _put(at, ",\"short\":", numbers[6])
    at[0] = c"}"
    return at + 1


cdef int64_t _created_ms(bytes id) except -1:
    """The first 48 bits of a UUIDv7."""
    cdef const char *digits = PyBytes_AS_STRING(id)
    cdef int64_t value = 0
    cdef int i
    for i in range(13):  # bytes end with a zero, so the loop ends there at the latest
        if c"0" <= digits[i] <= c"9":
            value = value * 16 + (digits[i] - c"0")
        elif c"a" <= digits[i] <= c"f":
            value = value * 16 + (digits[i] - c"a" + 10)
        elif i != 8 or digits[i] != c"-":
            raise ValueError(f"{id.decode()} is no id of a reservation")
    return value


def reservation_json(
    str reservation_id, bytes record, str durability, int64_t as_of_ms, bytes more
):
    """The resource as JSON bytes. A deadline at or before ``as_of_ms`` counts as passed.

    ``more``: further members, each with a comma before it. Raises ValueError for what is corrupt.
    """
    cdef const char *at = PyBytes_AS_STRING(record)
    cdef const char *end = at + PyBytes_GET_SIZE(record)
    cdef const char *words[HEAD_WORDS + 1]
    cdef const char *next_word
    cdef const char *rest
    cdef const char *state
    cdef int count = 0, spaces = 0
    cdef Py_ssize_t spaces_at
    cdef char *buffer
    cdef char *out
    cdef bint alive
    cdef bytes id_text = reservation_id.encode("ascii"), level = durability.encode("ascii")
    cdef int64_t created_ms = _created_ms(id_text)
    for spaces_at in range(PyBytes_GET_SIZE(record)):
        if at[spaces_at] == c" ":
            spaces += 1
    while count < HEAD_WORDS:
        words[count] = at
        count += 1
        next_word = <const char *>memchr(at, c" ", end - at)
        if next_word == NULL:
            raise ValueError(f"corrupt record of {reservation_id}")
        at = next_word + 1
    words[HEAD_WORDS] = at
    state = _state(words[0][0])
    if state == NULL:
        raise ValueError(f"corrupt record of {reservation_id}")
    alive = words[0][0] == c"R" and _number(words[3], end, &rest) > as_of_ms
    if words[0][0] == c"R" and not alive:
        state = "expired"
    buffer = <char *>malloc(
        HEAD_BYTES + 2 * PyBytes_GET_SIZE(record) + spaces * LINE_BYTES + PyBytes_GET_SIZE(more))
    if buffer == NULL:
        raise MemoryError()
    try:
        out = _copy(_text(buffer, "{\"id\":\""), PyBytes_AS_STRING(id_text), len(id_text))
        out = _text(_text(_text(out, "\",\"state\":\""), state), "\",\"version\":")
        out = _copy(out, words[1], words[2] - words[1] - 1)
        out = _copy(_text(out, ",\"channel\":\""), words[6], words[7] - words[6] - 1)
        out = _free_text(_text(out, "\",\"reference\":"), words[8], words[9] - 1)
        out = _free_text(_text(out, ",\"customer\":"), words[7], words[8] - 1)
        out = _copy(_text(out, ",\"durability\":\""), PyBytes_AS_STRING(level), len(level))
        out = _time(_text(out, "\",\"created_at\":"), created_ms)
        out = _text(out, ",\"updated_at\":")
        if words[2][0] == c"-":
            out = _time(out, created_ms)
        else:
            out = _time_or_null(out, words[2], end)
        out = _text(out, ",\"expires_at\":")
        out = _time_or_null(out, words[3], end) if alive else _text(out, "null")
        out = _time_or_null(_text(out, ",\"committed_at\":"), words[4], end)
        out = _text(out, ",\"lines\":[")
        at = words[HEAD_WORDS]
        while at < end:
            next_word = <const char *>memchr(at, c" ", end - at)
            if next_word == NULL:
                next_word = end
            if at > words[HEAD_WORDS]:
                out = _text(out, ",")
            out = _line(out, at, next_word)
            if out == NULL:
                raise ValueError(f"corrupt record of {reservation_id}")
            at = next_word + 1
        out = _copy(_text(out, "]"), PyBytes_AS_STRING(more), PyBytes_GET_SIZE(more))
        out = _text(out, "}")
        return PyBytes_FromStringAndSize(buffer, out - buffer)
    finally:
        free(buffer)
