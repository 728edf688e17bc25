"""The planner: which demand gets which units. Pure: no I/O, no clock, no awaits.

A ``Batch`` goes through a round in stages; each stage plans on the rows that the one before
leaves, and is printed by ``pack`` for one script::

    batch.begin(policy, skus)
    batch.receive(...)  …   ; stage = batch.pack()
    batch.add(demand)  …    ; batch.plan()  ; batch.pack_reservations(...) ; stage = batch.pack()

A batch takes demands in and prints what came of them; it decides in ``_decide.pyx``, and the verbs
of stock are in ``_stock.pyx``. ``reference.py`` says the rule.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, int64_t

from core.kernel._ids cimport make_id
from core.kernel._pool cimport check_laws, print_deltas, print_row
from core.kernel._record cimport HEAD_BYTES, TAKE_BYTES, put_head, put_take

LIMITS = ("", "channel_ceiling", "channel_quota", "safety_stock", "on_hand")

# What `add` answers.
ADDED = 0
MISS = 1             # something must be read first: see `misses`
FULL = 2             # the batch is full: this demand waits for the next one
UNKNOWN_CHANNEL = 3
UNKNOWN_SKU = 4
UNKNOWN_LOCATION = 5
NO_POOL = 6          # a fact needs a pool to be told of: open one, then come again
NO_CUSTOMER = 7      # one may have only so many, and nobody says who asks

# What a demand's units become: `state`.
RESERVED = RESERVED_STATE
COMMITTED = COMMITTED_STATE
FULFILLED = FULFILLED_STATE


cdef class Demand:
    """One reserve request, and after planning what it got.

    ``state`` says what its units become. A ``fact`` is never refused. ``held`` is what a record
    that is planned again holds open: (sku, location, own, borrowed, ceiling number) each. With
    an ``id`` given the record exists already: it is not printed, only planned for.

    ``id`` and ``record`` are set when it is granted, ``shortfalls`` (list of (line, sku, location,
    requested, available, granted, limited_by)) when it is refused in whole or in part. With an
    ``id`` given or a ``fact``, ``takes`` is what it took in order: (pool, own, borrowed, ceiling
    number, short); of a fact, ``moves`` says from where to where: (pool, from, to, units).

    ``limits``, set when it is taken in: name → spec of SKUs of which a customer may have only so
    many, or None. The script counts. It needs a customer then, unless a fact or ``unnamed``.
    """

    def __init__(self, channel, lines, tail, ttl_ms, partial=False, split=True):
        self.channel = channel
        self.lines = lines
        self.tail = tail
        self.ttl_ms = ttl_ms
        self.partial = partial
        self.split = split
        self.state = RESERVED_STATE


cdef int64_t UNSENT = <int64_t>1 << 62    # Row.planned of a plan that no pipeline carries yet


class Stage:
    """What one script is to write: rows in parallel lists, and the Row objects they belong to.

    ``guessed``: an old row among them is what an earlier stage of the same round makes of it.
    """

    __slots__ = ("deltas", "guessed", "new", "old", "pools", "rows")

    def __init__(self):
        self.guessed = False
        self.rows = []
        self.pools = []
        self.old = []
        self.new = []
        self.deltas = []


cdef class Batch(Decisions):
    """The demands of one round and the pools that they touch. Reused from round to round."""

    def begin(self, Policy policy not None, skus):
        """Starts a round on this policy; ``skus`` (name → Sku) is looked up, never changed."""
        Decisions.begin(self, policy, skus)
        self.begin_stage()

    def begin_stage(self):
        """Forgets demands, not pools: what comes is planned on what the last stage leaves."""
        self.misses = []
        self.demands = []
        self.limited = False
        self._part_skus = []
        self._forget()

    # --- intake: Python objects into flat arrays ---------------------------------------------

    def add(self, Demand demand not None):
        """Takes a demand in: ADDED, or why not. A refused intake leaves nothing behind.

        Raises RowCorrupt and ChannelUnknown (naming the SKU) for a row that it needs.
        """
        cdef int parts = self._parts, candidates = self._candidates, holds = self._holds, result
        cdef Wish *wish
        channel = self.policy._index.get(demand.channel)
        if channel is None or self.policy._rules[<int>channel].closed:
            return UNKNOWN_CHANNEL
        if self._wishes == self._wish_room:
            self._grow(<void **>&self._wish, &self._wish_room, sizeof(Wish))
        wish = &self._wish[self._wishes]
        wish.channel = channel
        wish.first_part = self._parts
        wish.partial = demand.partial
        wish.split = demand.split and self.policy._rules[<int>channel].split
        wish.first_candidate = candidates
        wish.first_hold = holds
        wish.state = demand.state
        wish.fact = demand.fact
        wish.known = demand.id is not None
        wish.repeats = wish.granted = wish.astray = False
        self._limits = None
        result = MISS
        try:
            result = self._add_lines(demand, wish)
            if demand.held is not None and (result == ADDED or result == MISS):
                result = self._add_held(demand.held, result)
            if self._limits is not None and result != MISS and result != FULL:
                if not wish.fact and not demand.unnamed and b" - " in demand.tail:
                    result = NO_CUSTOMER
        finally:
            if result != ADDED:
                self._parts, self._candidates, self._holds = parts, candidates, holds
                del self._part_skus[parts:]
        if result != ADDED:
            return result
        wish.parts = self._parts - wish.first_part
        wish.candidates = self._candidates - candidates
        wish.holds = self._holds - holds
        if wish.fact or wish.holds:
            self._saved_max = max(self._saved_max, wish.candidates + wish.holds)
        if wish.fact:           # from every account once, from its own two twice; it ships twice
            self._notes_max += wish.candidates * (len(self.policy.channels) + 12)
        demand.limits = self._limits
        self.limited = self.limited or self._limits is not None
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
                if result == MISS or worst == ADDED or (worst == NO_POOL and result != ADDED):
                    worst = result
        return worst

    cdef int _add_held(self, list held, int result) except -2:
        """What a record holds, to be laid open. A pool that it names has a row: look again."""
        cdef Hold *hold
        cdef Sku sku
        cdef Row row
        cdef int slot
        for name, location, own, borrowed, ceiling_number in held:
            sku = <Sku>self._skus.get(name)
            if sku is not None and sku.number == 0:
                return UNKNOWN_SKU
            if sku is not None and sku.limited:
                self._limit(sku)
            row = None if sku is None else <Row>sku.rows.get(location)
            if row is None or not row.text:
                self.misses.append((name, location))
                result = MISS
            if result != ADDED:
                continue
            slot = self._slot(row, sku)
            if slot < 0:
                return FULL
            if self._holds == self._hold_room:
                self._grow(<void **>&self._hold, &self._hold_room, sizeof(Hold))
            hold = &self._hold[self._holds]
            hold.slot = slot
            hold.own = own
            hold.borrowed = borrowed
            hold.ceiling_number = ceiling_number
            self._holds += 1
        return result

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
        return self._add_part(line, location, sku, wish, quantity, number)

    cdef int _add_part(
        self, object line, str location, Sku sku, Wish *wish, int64_t quantity, int number
    ) except -2:
        """One part with its candidate slots; a location where the SKU has no pool has 0 there."""
        cdef Part *part
        cdef int slot, result = ADDED
        cdef object row
        if sku.limited:
            self._limit(sku)
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
            wanted = self.policy._locations[wish.channel]
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
        if result == ADDED and wish.fact and part.candidates == 0:
            return NO_POOL
        if result == ADDED:
            self._parts += 1
            self._part_skus.append(sku)
        return result

    cdef void _limit(self, Sku sku) except *:
        """Notes a SKU of which a customer may have only so many."""
        self._limits = {**(self._limits or {}), sku.name: sku.spec}

    # --- what came of it ---------------------------------------------------------------------

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
        not before `since`, and nothing of it was planned since and has not landed yet."""
        cdef Wish *wish = &self._wish[number]
        cdef Part *part
        cdef Row row
        cdef Sku sku
        cdef int i, k
        cdef int32_t slot
        if wish.astray:      # the rows are older than the record: only newer ones may refuse it
            since = float("inf")
        for i in range(wish.first_part, wish.first_part + wish.parts):
            part = &self._part[i]
            sku = <Sku>self._part_skus[i]
            if sku.round <= after_round and sku.seen_at < since:
                return False
            for k in range(part.candidates):
                slot = self._candidate[part.first_candidate + k]
                row = <Row>self.rows[slot]
                if self._now[slot].touched or row.planned > row.round or (
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

    # --- printing ----------------------------------------------------------------------------

    def pack(self):
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
            if row.planned == UNSENT:      # an earlier stage of this round changed it as well
                stage.guessed = True
            row.planned = UNSENT
            new = print_row(now, self.policy._names, now.version + 1)
            rows.append(row)
            pools.append(row.pool)
            old.append(row.text)
            news.append(new)
            deltas.append(print_deltas(now, before, self.policy._names))
            now.version += 1
            row.text = new
            self._remember(slot)
        return stage

    def pack_reservations(self, int64_t now_ms, bytes randomness, int shard):
        """Makes id and record of every granted demand: ([demand…], {due second: [id…]}).

        ``randomness``: 8 bytes per demand. A demand that has an id keeps it, and its record is
        its own affair. What is reserved is due at now + ttl.
        """
        cdef int number
        cdef Wish *wish
        cdef Demand demand
        cdef int64_t deadline, second, last_second = -1
        cdef const unsigned char *bits = <const unsigned char *>PyBytes_AS_STRING(randomness)
        cdef list ids = None
        granted = []
        due = {}
        for number in range(self._wishes):
            wish = &self._wish[number]
            if not wish.granted:
                continue
            demand = <Demand>self.demands[number]
            if demand.id is None:
                demand.id = make_id(now_ms, number, bits + 8 * number, shard)
                if wish.state == RESERVED_STATE:
                    deadline = now_ms + demand.ttl_ms
                    second = deadline // 1000
                    if second != last_second:
                        ids = due.setdefault(second, [])
                        last_second = second
                    ids.append(demand.id)
                demand.record = self._record(
                    wish, deadline if wish.state == RESERVED_STATE else now_ms, demand.tail)
            if wish.known or wish.fact:
                demand.takes = self._took(wish)
            if wish.fact:
                demand.moves = self._moved(wish)
            demand.shortfalls = self.shortfalls(number) if wish.shortfalls else None
            granted.append(demand)
        return granted, due

    cdef bytes _record(self, Wish *wish, int64_t time_ms, bytes tail):
        """The record of a new reservation: its head, and per take what came of it."""
        cdef Take *taken
        cdef bytes text
        cdef char *at
        cdef int i, end = wish.first_take + wish.takes
        cdef Py_ssize_t room = HEAD_BYTES + PyBytes_GET_SIZE(tail)
        for i in range(wish.first_take, end):
            room += TAKE_BYTES + PyBytes_GET_SIZE((<Row>self.rows[self._take[i].slot]).pool)
        text = PyBytes_FromStringAndSize(NULL, room)
        at = put_head(PyBytes_AS_STRING(text), wish.state, time_ms, tail)
        for i in range(wish.first_take, end):
            taken = &self._take[i]
            at = put_take(at, (<Row>self.rows[taken.slot]).pool, taken, wish.state)
        return text[:at - PyBytes_AS_STRING(text)]

    cdef list _took(self, Wish *wish):
        cdef Take *taken
        cdef int i
        takes = []
        for i in range(wish.first_take, wish.first_take + wish.takes):
            taken = &self._take[i]
            takes.append((
                (<Row>self.rows[taken.slot]).pool, taken.own, taken.borrowed,
                taken.ceiling_number, taken.short))
        return takes

    cdef list _moved(self, Wish *wish):
        cdef Move *move
        cdef int i
        moves = []
        for i in range(wish.first_note, wish.first_note + wish.notes):
            move = &self._fact.move[i]
            moves.append((
                (<Row>self.rows[move.slot]).pool, self._name(move.source),
                self._name(move.target), move.units))
        return moves
