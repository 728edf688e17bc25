"""The planner: which demand gets which units. Pure: no I/O, no clock, no awaits.

A ``Batch`` goes through a round in stages; each stage plans on the rows that the one before
leaves, and is printed by ``pack`` for one script::

    batch.begin(policy, skus)
    batch.receive(...)      ; stage = batch.pack()
    batch.add(demand)  …    ; batch.plan()  ; batch.pack_reservations(...) ; stage = batch.pack()

See ``_plan.pxd`` for the structs and ``reference.py`` for the rule.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset

from core.kernel._pool cimport (
    CEILING_NONE, LIMIT_CEILING, LIMIT_ON_HAND, LIMIT_QUOTA, LIMIT_SAFETY, available, borrowable,
    check_laws, give_back, meet, parse_row, print_deltas, print_row, receive, take, untake)

from core.kernel._pool import ChannelUnknown

LIMITS = ("", "channel_ceiling", "channel_quota", "safety_stock", "on_hand")

# What `add` answers.
ADDED = 0
MISS = 1             # something must be read first: see `misses`
FULL = 2             # the batch is full: this demand waits for the next one
UNKNOWN_CHANNEL = 3
UNKNOWN_SKU = 4
UNKNOWN_LOCATION = 5

cdef int64_t _stamps = 0


cdef class Demand:
    """One reserve request, and after planning what it got.

    ``id`` and ``record`` are set when it is granted, ``shortfalls`` (list of (line, sku, location,
    requested, available, granted, limited_by)) when it is refused in whole or in part.
    """

    def __init__(self, channel, lines, tail, ttl_ms, partial=False, split=True):
        self.channel = channel
        self.lines = lines
        self.tail = tail
        self.ttl_ms = ttl_ms
        self.partial = partial
        self.split = split
        self.committed = False
        self.version = 1


class Stage:
    """What one script is to write: rows in parallel lists, and the Row objects they belong to."""

    __slots__ = ("deltas", "new", "old", "pools", "rows")

    def __init__(self):
        self.rows = []
        self.pools = []
        self.old = []
        self.new = []
        self.deltas = []


cdef class Batch:
    """The demands of one round and the pools that they touch. Reused from round to round."""

    def __cinit__(self):
        self._now = <Pool *>calloc(POOLS_MAX, sizeof(Pool))
        self._before = <Pool *>calloc(POOLS_MAX, sizeof(Pool))
        if self._now == NULL or self._before == NULL:
            raise MemoryError()

    def __dealloc__(self):
        free(self._now)
        free(self._before)
        free(self._now_quotas)
        free(self._before_quotas)
        free(self._part)
        free(self._wish)
        free(self._take)
        free(self._shortfall)
        free(self._candidate)

    def begin(self, Policy policy not None, skus):
        """Starts a round on this policy; ``skus`` (name → Sku) is looked up, never changed."""
        global _stamps
        cdef int stride = max(1, len(policy.channels))
        _stamps += 1
        self._stamp = _stamps
        self.policy = policy
        self._skus = skus
        self.rows = []
        self._pools = 0
        if stride > self._stride:
            free(self._now_quotas)
            free(self._before_quotas)
            self._now_quotas = <Quota *>malloc(POOLS_MAX * stride * sizeof(Quota))
            self._before_quotas = <Quota *>malloc(POOLS_MAX * stride * sizeof(Quota))
            if self._now_quotas == NULL or self._before_quotas == NULL:
                raise MemoryError()
            self._stride = stride
        self.begin_stage()

    def begin_stage(self):
        """Forgets demands, not pools: what comes is planned on what the last stage leaves."""
        self.misses = []
        self.demands = []
        self._part_skus = []
        self._wishes = self._parts = self._takes = self._shortfalls = self._candidates = 0

    # --- intake: Python objects into flat arrays ---------------------------------------------

    cdef int _slot(self, Row row, Sku sku) except -2:
        """The slot of a row in this batch; parsed and brought under the policy at first touch.

        -1 if the batch has no room. Raises ChannelUnknown, naming the SKU, for a row that met a
        newer policy.
        """
        cdef Pool *pool
        cdef int slot
        if row.stamp == self._stamp:
            return row.slot
        if self._pools == POOLS_MAX:
            return -1
        slot = self._pools
        pool = &self._now[slot]
        memset(pool, 0, sizeof(Pool))
        pool.channels = len(self.policy.channels)
        pool.quotas = self._now_quotas + slot * self._stride
        pool.rules = sku.rules(self.policy)
        pool.safety_target = sku.spec.safety_by_location.get(row.location, sku.spec.safety_stock)
        pool.parties = self.policy._parties.get(row.location, 0)
        pool.sells = self.policy.sells(row.location)
        text = row.text
        if text:
            try:
                parse_row(
                    PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text), self.policy._index, pool)
            except ChannelUnknown:
                raise ChannelUnknown(row.sku) from None
            if pool.sku_number > sku.number or pool.policy_number > self.policy.number:
                raise ChannelUnknown(row.sku)
        else:
            memset(pool.quotas, 0, pool.channels * sizeof(Quota))
        self._remember(slot)
        if (pool.sku_number != sku.number or pool.policy_number != self.policy.number):
            meet(pool, sku.number, self.policy.number)
        row.stamp = self._stamp
        row.slot = slot
        row.used = True
        self.rows.append(row)
        self._pools += 1
        return slot

    cdef void _remember(self, int slot) noexcept:
        """Notes the pool as it is: what later changes is a delta against this."""
        cdef Pool *now = &self._now[slot]
        cdef Quota *quotas = self._before_quotas + slot * self._stride
        now.inflow = 0
        now.met = now.touched = False
        memcpy(&self._before[slot], now, sizeof(Pool))
        memcpy(quotas, now.quotas, now.channels * sizeof(Quota))
        self._before[slot].quotas = quotas

    def add(self, Demand demand not None):
        """Takes a demand in: ADDED, or why not. A refused intake leaves nothing behind."""
        cdef int parts = self._parts, candidates = self._candidates, result
        cdef Wish *wish
        channel = self.policy._index.get(demand.channel)
        if channel is None:
            return UNKNOWN_CHANNEL
        if self._wishes == self._wish_room:
            self._grow(<void **>&self._wish, &self._wish_room, sizeof(Wish))
        wish = &self._wish[self._wishes]
        wish.channel = channel
        wish.first_part = self._parts
        wish.partial = demand.partial
        wish.split = demand.split and self.policy._rules[<int>channel].split
        wish.committed = demand.committed
        wish.takes = wish.shortfalls = 0
        wish.repeats = False
        result = MISS
        try:
            result = self._add_lines(demand, wish)
        finally:
            if result != ADDED:
                self._parts, self._candidates = parts, candidates
                del self._part_skus[parts:]
        if result != ADDED:
            return result
        wish.parts = self._parts - wish.first_part
        self._wishes += 1
        self.demands.append(demand)
        return ADDED

    cdef int _add_lines(self, Demand demand, Wish *wish) except -2:
        cdef int result, worst = ADDED, number
        cdef list lines = demand.lines
        if len(lines) == 1:
            line = lines[0]
            return self._add_line(line, line.location, wish, line.quantity, 0)
        summed = {}
        skus = set()
        for number, line in enumerate(lines):
            key = (line.sku, line.location, tuple(line.locations) if line.locations else None)
            entry = summed.get(key)
            if entry is None:
                summed[key] = [line.quantity, number]
                if line.sku in skus:
                    wish.repeats = True
                skus.add(line.sku)
            else:
                entry[0] += line.quantity
        for pinned in (True, False):     # pinned lines first: they have no choice
            for key, (quantity, number) in summed.items():
                if (key[1] is not None) is not pinned:
                    continue
                result = self._add_line(lines[number], key[1], wish, quantity, number)
                if result == FULL:
                    return FULL
                if result != ADDED and (worst == ADDED or result == MISS):
                    worst = result
        return worst

    cdef int _add_line(
        self, object line, str location, Wish *wish, int64_t quantity, int number
    ) except -2:
        cdef Sku sku = <Sku>self._skus.get(line.sku)
        if sku is None:
            wanted = (location,) if location else (
                line.locations or self.policy._locations[wish.channel])
            self.misses.extend([(line.sku, each) for each in wanted])
            return MISS
        if sku.number == 0:
            return UNKNOWN_SKU
        return self._add_part(line, location, sku, wish.channel, quantity, number)

    cdef int _add_part(
        self, object line, str location, Sku sku, int channel, int64_t quantity, int number
    ) except -2:
        """One part with its candidate slots; a location where the SKU has no pool has 0 there."""
        cdef Part *part
        cdef int slot, result = ADDED
        cdef object row
        if self._parts == self._part_room:
            self._grow(<void **>&self._part, &self._part_room, sizeof(Part))
        part = &self._part[self._parts]
        part.quantity = quantity
        part.line = number
        part.first_candidate = self._candidates
        part.candidates = 0
        if location is not None:
            if location not in self.policy.locations:
                return UNKNOWN_LOCATION
            wanted = (location,)
        elif line.locations:
            for each in line.locations:
                if each not in self.policy.locations:
                    return UNKNOWN_LOCATION
            wanted = tuple(dict.fromkeys(line.locations))
        else:
            wanted = self.policy._locations[channel]
        for each in wanted:
            row = sku.rows.get(each)
            if row is None:
                if each in sku.locations:
                    self.misses.append((sku.name, each))
                    result = MISS
                continue
            if result != ADDED or not (<Row>row).text:
                continue
            slot = self._slot(<Row>row, sku)
            if slot < 0:
                return FULL
            if self._candidates == self._candidate_room:
                self._grow(<void **>&self._candidate, &self._candidate_room, sizeof(int32_t))
            self._candidate[self._candidates] = slot
            self._candidates += 1
            part.candidates += 1
        if result == ADDED:
            self._parts += 1
            self._part_skus.append(sku)
        return result

    cdef int _grow(self, void **array, int *room, Py_ssize_t size) except -1:
        """Doubles an array."""
        cdef int wider = room[0] * 2 if room[0] else 256
        cdef void *grown = realloc(array[0], wider * size)
        if grown == NULL:
            raise MemoryError()
        array[0] = grown
        room[0] = wider
        return 0

    # --- the plan: flat arrays only ----------------------------------------------------------

    def plan(self):
        """Decides every demand in order. How many were granted something."""
        cdef int number, granted = 0
        while self._take_room < self._candidates:      # a part takes once from each candidate
            self._grow(<void **>&self._take, &self._take_room, sizeof(Take))
        while self._shortfall_room < self._parts:
            self._grow(<void **>&self._shortfall, &self._shortfall_room, sizeof(Shortfall))
        with nogil:
            for number in range(self._wishes):
                self._plan_wish(number)
                if self._wish[number].takes:
                    granted += 1
        return granted

    cdef void _plan_wish(self, int number) noexcept nogil:
        """All or nothing, unless partial."""
        cdef Wish *wish = &self._wish[number]
        cdef Take *taken
        cdef int i
        cdef bint whole = True
        wish.first_take = self._takes
        wish.takes = 0
        wish.first_shortfall = self._shortfalls
        wish.shortfalls = 0
        for i in range(wish.first_part, wish.first_part + wish.parts):
            whole = self._plan_part(wish, i) and whole
        if whole or wish.partial:
            for i in range(wish.first_take, wish.first_take + wish.takes):
                self._now[self._take[i].slot].touched = True
            return
        for i in range(wish.first_take, wish.first_take + wish.takes):
            taken = &self._take[i]
            untake(
                &self._now[taken.slot], wish.channel, taken.own, taken.borrowed, wish.committed)
        self._takes = wish.first_take
        wish.takes = 0

    cdef bint _plan_part(self, Wish *wish, int number) noexcept nogil:
        """One location for the whole line if any has enough, else split if allowed."""
        cdef Part *part = &self._part[number]
        cdef int32_t *slots = self._candidate + part.first_candidate
        cdef int64_t here, total = 0, most = 0, left
        cdef int i, best = 0
        for i in range(part.candidates):
            here = available(&self._now[slots[i]], wish.channel)
            if here >= part.quantity:
                self._take_from(wish, slots[i], part.quantity)
                return True
            total += here
            if here > most:
                most, best = here, i
        if not wish.split:
            if wish.partial and most > 0:
                self._fall_short(wish, number, most, most, slots[best])
                self._take_from(wish, slots[best], most)
            else:
                self._fall_short(
                    wish, number, most, 0, slots[best] if most > 0 else -1)
            return False
        if total < part.quantity:
            self._fall_short(wish, number, total, total if wish.partial else 0, -1)
            if not wish.partial:
                return False
        left = part.quantity if part.quantity < total else total
        for i in range(part.candidates):
            if left == 0:
                break
            here = available(&self._now[slots[i]], wish.channel)
            if here > left:
                here = left
            if here:
                self._take_from(wish, slots[i], here)
                left -= here
        return total >= part.quantity

    cdef void _take_from(self, Wish *wish, int32_t slot, int64_t quantity) noexcept nogil:
        cdef Pool *pool = &self._now[slot]
        cdef Quota *quota = &pool.quotas[wish.channel]
        cdef Take *taken
        cdef int64_t own = take(pool, wish.channel, quantity, wish.committed)
        cdef int i
        if wish.repeats:
            for i in range(wish.first_take, wish.first_take + wish.takes):
                taken = &self._take[i]
                if taken.slot == slot:
                    taken.own += own
                    taken.borrowed += quantity - own
                    return
        taken = &self._take[self._takes]
        taken.slot = slot
        taken.own = own
        taken.borrowed = quantity - own
        taken.ceiling_number = quota.ceiling_number if quota.ceiling_kind != CEILING_NONE else 0
        self._takes += 1
        wish.takes += 1

    cdef void _fall_short(
        self, Wish *wish, int number, int64_t reach, int64_t granted, int32_t only
    ) noexcept nogil:
        """Notes why a line fails: the tightest limit whose lifting would give more.

        `only`: the one slot to judge by (no split, the one with most), or -1 for all candidates.
        """
        cdef Part *part = &self._part[number]
        cdef Shortfall *shortfall = &self._shortfall[self._shortfalls]
        cdef Pool *pool
        cdef int64_t unceiled = 0, others = 0, safety = 0
        cdef int32_t slot
        cdef int i, c
        for i in range(part.candidates):
            slot = self._candidate[part.first_candidate + i]
            if only >= 0 and slot != only:
                continue
            pool = &self._now[slot]
            if not pool.sells:
                continue
            unceiled += borrowable(pool, wish.channel)
            safety += pool.safety
            for c in range(pool.channels):
                if c != wish.channel:
                    others += pool.quotas[c].free
            if not pool.rules[wish.channel].borrow:
                others += pool.shared
        shortfall.part = number
        shortfall.available = reach
        shortfall.granted = granted
        if unceiled > reach:
            shortfall.limit = LIMIT_CEILING
        elif others:
            shortfall.limit = LIMIT_QUOTA
        elif safety:
            shortfall.limit = LIMIT_SAFETY
        else:
            shortfall.limit = LIMIT_ON_HAND
        self._shortfalls += 1
        wish.shortfalls += 1

    # --- what came of it ---------------------------------------------------------------------

    def granted(self, int number):
        """True if the demand got something."""
        return self._wish[number].takes > 0

    def shortfalls(self, int number):
        """Per failing line (line, sku, location, requested, available, granted, limited_by)."""
        cdef Wish *wish = &self._wish[number]
        cdef Shortfall *shortfall
        cdef Part *part
        cdef int i
        found = []
        lines = (<Demand>self.demands[number]).lines
        for i in range(wish.first_shortfall, wish.first_shortfall + wish.shortfalls):
            shortfall = &self._shortfall[i]
            part = &self._part[shortfall.part]
            line = lines[part.line]
            found.append((
                part.line, line.sku, line.location, part.quantity, shortfall.available,
                shortfall.granted, LIMITS[shortfall.limit]))
        return found

    def confirmed(self, int number, int64_t after_round, double since):
        """True if a refusal may stand: all it rests on was seen after `after_round` was sent, or
        not before `since`, and is not changed by this batch."""
        cdef Wish *wish = &self._wish[number]
        cdef Part *part
        cdef Row row
        cdef Sku sku
        cdef int i, k
        cdef int32_t slot
        for i in range(wish.first_part, wish.first_part + wish.parts):
            part = &self._part[i]
            sku = <Sku>self._part_skus[i]
            if sku.round <= after_round and sku.seen_at < since:
                return False
            for k in range(part.candidates):
                slot = self._candidate[part.first_candidate + k]
                row = <Row>self.rows[slot]
                if self._now[slot].touched or (
                        row.round <= after_round and row.seen_at < since):
                    return False
        return True

    def reads(self, int number):
        """The (sku, location) pairs that a demand rests on, to be read again."""
        cdef Wish *wish = &self._wish[number]
        cdef Part *part
        cdef int i, k
        pairs = []
        for i in range(wish.first_part, wish.first_part + wish.parts):
            part = &self._part[i]
            name = (<Sku>self._part_skus[i]).name
            if part.candidates == 0:
                pairs.append((name, None))
            for k in range(part.candidates):
                row = <Row>self.rows[self._candidate[part.first_candidate + k]]
                pairs.append((name, row.location))
        return pairs

    # --- stock -------------------------------------------------------------------------------

    def receive(self, Row row not None, Sku sku not None, int64_t quantity):
        """Plans a receipt. Per account (name, units) in the order filled; None if no room in the
        batch. Raises OverflowError if an account would pass 2^53."""
        cdef int slot = self._slot(row, sku), c
        cdef Pool *pool
        cdef Pool was
        if slot < 0:
            return None
        pool = &self._now[slot]
        was = pool[0]
        frees = [pool.quotas[c].free for c in range(pool.channels)]
        if receive(pool, quantity) < 0:
            raise OverflowError(f"{row.pool.decode()} would hold more than 2^53 units")
        moves = [("deficit", was.deficit - pool.deficit), ("safety", pool.safety - was.safety)]
        for c in range(pool.channels):
            moves.append((f"free:{self.policy.channels[c]}", pool.quotas[c].free - frees[c]))
        moves.append(("shared", pool.shared - was.shared))
        return [move for move in moves if move[1]]

    def meet(self, Row row not None, Sku sku not None):
        """Brings a row under its SKU's policy; `pack` then prints it. False if no room."""
        cdef int slot = self._slot(row, sku)
        if slot < 0:
            return False
        self._now[slot].touched = self._now[slot].met
        return True

    def as_met(self, Row row not None, Sku sku not None):
        """The row as its policy makes it, for reading; nothing is planned. None if no room."""
        cdef int slot = self._slot(row, sku)
        if slot < 0:
            return None
        return print_row(&self._now[slot], self.policy._names, self._now[slot].version)

    def give_back(
        self, Row row not None, Sku sku not None, channel, own, borrowed, ceiling_number, committed
    ):
        """Plans the return of a reservation's units to a pool. The deficit that it paid."""
        cdef int slot = self._slot(row, sku)
        cdef Pool *pool
        cdef int64_t was
        if slot < 0:
            return None
        pool = &self._now[slot]
        was = pool.deficit
        give_back(
            pool, self.policy._index[channel], own, borrowed, ceiling_number, committed)
        return was - pool.deficit

    # --- printing ----------------------------------------------------------------------------

    def pack(self, bint receiving=False):
        """Prints every pool that this stage changed and checks the laws on it: a Stage."""
        cdef int slot
        cdef Pool *now
        cdef Pool *before
        cdef Row row
        cdef bytes new
        stage = Stage()
        rows, pools, old, news, deltas = (
            stage.rows, stage.pools, stage.old, stage.new, stage.deltas)
        for slot in range(self._pools):        # all checks first: a broken law prints nothing
            if self._now[slot].touched:
                check_laws(&self._now[slot], &self._before[slot])
        for slot in range(self._pools):
            now = &self._now[slot]
            if not now.touched:
                continue
            before = &self._before[slot]
            row = <Row>self.rows[slot]
            new = print_row(now, self.policy._names, now.version + 1)
            rows.append(row)
            pools.append(row.pool)
            old.append(row.text)
            news.append(new)
            deltas.append(print_deltas(now, before, self.policy._names, receiving))
            now.version += 1
            row.text = new
            self._remember(slot)
        return stage

    def pack_reservations(self, int64_t now_ms, bytes randomness, int shard):
        """Makes id and record of every granted demand: ([demand…], {due second: [id…]}).

        ``randomness``: 8 bytes per demand. A demand that has an id already keeps it and becomes
        committed at ``version`` (a late commit); the others are reserved until now + ttl.
        """
        cdef int number, i
        cdef Wish *wish
        cdef Take *taken
        cdef Demand demand
        cdef Row row
        cdef int64_t deadline, second, last_second = -1
        cdef const unsigned char *bits = <const unsigned char *>PyBytes_AS_STRING(randomness)
        cdef list ids = None
        granted = []
        due = {}
        for number in range(self._wishes):
            wish = &self._wish[number]
            if wish.takes == 0:
                continue
            demand = <Demand>self.demands[number]
            if demand.id is None:
                deadline = now_ms + demand.ttl_ms
                demand.id = make_id(now_ms, number, bits + 8 * number, shard)
                second = deadline // 1000
                if second != last_second:
                    ids = due.get(second)
                    if ids is None:
                        ids = due[second] = []
                    last_second = second
                ids.append(demand.id)
                parts = [b"R 1 - %d - - %s" % (deadline, demand.tail)]
            else:
                # The nonce stands where a settling script writes its seq: it tells this plan from
                # another worker's for the same reservation in the same millisecond.
                nonce = randomness[8 * number:8 * number + 8].hex().encode()
                parts = [b"C %d %d - %d ~%s %s" % (
                    demand.version, now_ms, now_ms, nonce, demand.tail)]
            for i in range(wish.first_take, wish.first_take + wish.takes):
                taken = &self._take[i]
                row = <Row>self.rows[taken.slot]
                if taken.ceiling_number:
                    parts.append(b"%s@%d,%d,0,0,0,%d" % (
                        row.pool, taken.own, taken.borrowed, taken.ceiling_number))
                else:
                    parts.append(b"%s@%d,%d" % (row.pool, taken.own, taken.borrowed))
            demand.record = b" ".join(parts)
            demand.shortfalls = self.shortfalls(number) if wish.shortfalls else None
            granted.append(demand)
        return granted, due


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
