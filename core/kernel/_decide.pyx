"""Which demand gets which units. See ``_decide.pxd``."""

from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

from core.kernel._moves cimport (
    AT_COMMITTED, AT_DEFICIT, AT_FREE, AT_RESERVED, AT_SHARED, note)
from core.kernel._pool cimport (
    ACCOUNT_MAX, CEILING_NONE, LIMIT_CEILING, LIMIT_ON_HAND, LIMIT_QUOTA, LIMIT_SAFETY, units_of)
from core.kernel._rules cimport (
    available, borrowable, lay_open, pay_deficit, ship, standing, strip, take, untake)


cdef class Decisions(Stock):
    """The demands of a stage in flat arrays, and how they are decided."""

    def __dealloc__(self):
        free(self._part)
        free(self._wish)
        free(self._take)
        free(self._hold)
        free(self._shortfall)
        free(self._candidate)
        free(self._fact.move)
        free(self._saved)
        free(self._saved_quotas)

    cdef void _forget(self) noexcept:
        """The stage is over: its demands, not the pools."""
        self._wishes = self._parts = self._takes = self._shortfalls = self._candidates = 0
        self._holds = self._notes_max = self._saved_max = 0

    cdef int _grow(self, void **array, int *room, Py_ssize_t size) except -1:
        """Doubles an array."""
        cdef int wider = room[0] * 2 if room[0] else 256
        cdef void *grown = realloc(array[0], wider * size)
        if grown == NULL:
            raise MemoryError()
        array[0] = grown
        room[0] = wider
        return 0

    cdef int _make_room(self) except -1:
        """Room for all that planning may write: it allocates nothing itself."""
        cdef int quotas = self._saved_max * max(1, len(self.policy.channels))
        # A part takes once from each candidate; a fact once under its ceiling and once past it,
        # what is planned again once more under each ceiling of old that its record has spent of.
        while self._take_room < 2 * self._candidates + self._holds:
            self._grow(<void **>&self._take, &self._take_room, sizeof(Take))
        while self._shortfall_room < self._parts:
            self._grow(<void **>&self._shortfall, &self._shortfall_room, sizeof(Shortfall))
        while self._note_room < self._notes_max:
            self._grow(<void **>&self._fact.move, &self._note_room, sizeof(Move))
        while self._saved_room < self._saved_max:
            self._grow(<void **>&self._saved, &self._saved_room, sizeof(Pool))
        while self._saved_quota_room < quotas:
            self._grow(<void **>&self._saved_quotas, &self._saved_quota_room, sizeof(Quota))
        return 0

    # --- the plan: flat arrays only ----------------------------------------------------------

    def plan(self):
        """Decides every demand in order. How many were granted something."""
        cdef int number, granted = 0
        self._make_room()
        self._fact.count = 0
        with nogil:
            for number in range(self._wishes):
                self._plan_wish(&self._wish[number])
                if self._wish[number].granted:
                    granted += 1
        return granted

    cdef void _plan_wish(self, Wish *wish) noexcept nogil:
        """All or nothing, unless partial. What a record holds lies open meanwhile."""
        cdef Take *taken
        cdef int i
        cdef bint whole = True
        wish.first_take = self._takes
        wish.takes = 0
        wish.first_shortfall = self._shortfalls
        wish.shortfalls = 0
        wish.first_note = self._fact.count
        if wish.fact or wish.holds:
            self._save(wish)
            self._lay_open(wish)
        for i in range(wish.first_part, wish.first_part + wish.parts):
            if wish.fact:
                whole = self._plan_fact(wish, i) and whole
            else:
                whole = self._plan_part(wish, i) and whole
        wish.granted = wish.takes > 0 and (whole or wish.partial) or wish.holds > 0 and whole
        if wish.granted:
            for i in range(wish.first_take, wish.first_take + wish.takes):
                self._now[self._take[i].slot].touched = True
            if wish.holds or wish.known or wish.state == FULFILLED_STATE:
                self._settle(wish)
        else:
            if wish.fact or wish.holds:
                self._restore(wish)
            else:
                for i in range(wish.first_take, wish.first_take + wish.takes):
                    taken = &self._take[i]
                    untake(
                        &self._now[taken.slot], wish.channel, taken.own, taken.borrowed,
                        wish.state != RESERVED_STATE)
            self._takes = wish.first_take
            wish.takes = 0
        wish.notes = self._fact.count - wish.first_note

    cdef void _lay_open(self, Wish *wish) noexcept nogil:
        cdef Hold *hold
        cdef Pool *pool
        cdef int64_t outdated
        cdef int i
        for i in range(wish.first_hold, wish.first_hold + wish.holds):
            hold = &self._hold[i]
            pool = &self._now[hold.slot]
            outdated = pool.held_outdated
            if not lay_open(
                    pool, wish.channel, hold.own, hold.borrowed, hold.ceiling_number,
                    wish.state != RESERVED_STATE):
                wish.astray = True
            hold.outdated = pool.held_outdated - outdated

    cdef void _settle(self, Wish *wish) noexcept nogil:
        """A granted one: what lies open still pays deficits; what is fulfilled leaves."""
        cdef Take *taken
        cdef Pool *pool
        cdef int i
        for i in range(wish.first_hold, wish.first_hold + wish.holds):
            pool = &self._now[self._hold[i].slot]
            pay_deficit(pool, wish.channel)
            pool.touched = pool.replanned = True
            pool.held = pool.held_borrowed = pool.held_outdated = 0
        for i in range(wish.first_take, wish.first_take + wish.takes):
            taken = &self._take[i]
            pool = &self._now[taken.slot]
            pool.replanned = pool.replanned or wish.known
            if wish.state == FULFILLED_STATE:
                self._fact.slot = taken.slot
                ship(pool, wish.channel, taken.own + taken.borrowed,
                     &self._fact if wish.fact else NULL)

    cdef int _place(self, Wish *wish, int number) noexcept nogil:
        """The slots that a wish may change, one after the other: its candidates, what it holds."""
        if number < wish.candidates:
            return self._candidate[wish.first_candidate + number]
        return self._hold[wish.first_hold + number - wish.candidates].slot

    cdef void _save(self, Wish *wish) noexcept nogil:
        """Keeps the pools as they are before a wish that is not undone take by take."""
        cdef Pool *pool
        cdef int i
        for i in range(wish.candidates + wish.holds):
            pool = &self._now[self._place(wish, i)]
            self._saved[i] = pool[0]
            memcpy(self._saved_quotas + i * pool.channels, pool.quotas,
                   pool.channels * sizeof(Quota))

    cdef void _restore(self, Wish *wish) noexcept nogil:
        cdef Pool *pool
        cdef int i
        for i in range(wish.candidates + wish.holds):
            pool = &self._now[self._place(wish, i)]
            pool[0] = self._saved[i]
            memcpy(pool.quotas, self._saved_quotas + i * pool.channels,
                   pool.channels * sizeof(Quota))
        self._fact.count = wish.first_note

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
            if wish.holds and self._keep(wish, part):
                return True
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

    cdef bint _keep(self, Wish *wish, Part *part) noexcept nogil:
        """A line that may not be split, and is: it stays so if it asks for no more than is held."""
        cdef int32_t *slots = self._candidate + part.first_candidate
        cdef int64_t held = 0, here, left = part.quantity
        cdef int i
        for i in range(part.candidates):
            held += self._now[slots[i]].held
        if held < left:
            return False
        for i in range(part.candidates):
            here = self._now[slots[i]].held
            if here > left:
                here = left
            if here:
                self._take_from(wish, slots[i], here)
                left -= here
        return True

    cdef void _take_from(self, Wish *wish, int32_t slot, int64_t quantity) noexcept nogil:
        """Takes of a pool; first what is held and has spent a ceiling that stands no more."""
        if wish.holds:
            quantity -= self._take_outdated(wish, slot, quantity)
        if quantity:
            self._take_under(wish, slot, quantity, standing(&self._now[slot].quotas[wish.channel]))

    cdef int64_t _take_outdated(self, Wish *wish, int32_t slot, int64_t quantity) noexcept nogil:
        """How many units of it were such."""
        cdef Hold *hold
        cdef int64_t here, taken = 0
        cdef int i
        for i in range(wish.first_hold, wish.first_hold + wish.holds):
            hold = &self._hold[i]
            here = quantity - taken
            if here > hold.outdated:
                here = hold.outdated
            if hold.slot != slot or here == 0:
                continue
            hold.outdated -= here
            taken += here
            self._now[slot].held_outdated -= here
            self._take_under(wish, slot, here, hold.ceiling_number)
        return taken

    cdef void _take_under(
        self, Wish *wish, int32_t slot, int64_t quantity, int64_t ceiling_number
    ) noexcept nogil:
        cdef Pool *pool = &self._now[slot]
        cdef Take *taken
        cdef int64_t own = take(
            pool, wish.channel, quantity, ceiling_number, wish.state != RESERVED_STATE)
        cdef int64_t borrowed = quantity - own
        cdef int i
        if wish.holds:
            pool.held -= quantity if quantity < pool.held else pool.held
            pool.held_borrowed -= borrowed if borrowed < pool.held_borrowed else pool.held_borrowed
        if wish.repeats or wish.holds:
            for i in range(wish.first_take, wish.first_take + wish.takes):
                taken = &self._take[i]
                if taken.slot == slot and taken.ceiling_number == ceiling_number:
                    taken.own += own
                    taken.borrowed += borrowed
                    return
        taken = &self._take[self._takes]
        taken.slot = slot
        taken.own = own
        taken.borrowed = borrowed
        taken.short = 0
        taken.ceiling_number = ceiling_number
        self._takes += 1
        wish.takes += 1

    cdef bint _plan_fact(self, Wish *wish, int number) noexcept nogil:
        """As a demand if one location has enough; else what each gives, then what each has, and
        what is missing then is missing in the first. False if it cannot be counted."""
        cdef Part *part = &self._part[number]
        cdef int32_t *slots = self._candidate + part.first_candidate
        cdef Pool *pool
        cdef int64_t here, left = part.quantity
        cdef int i
        for i in range(part.candidates):
            if available(&self._now[slots[i]], wish.channel) >= left:
                self._give(wish, slots[i], left)
                return True
        for i in range(part.candidates):
            here = available(&self._now[slots[i]], wish.channel)
            if here > left:
                here = left
            self._give(wish, slots[i], here)
            left -= here
        for i in range(part.candidates):
            left = self._force(wish, slots[i], left)
        if left == 0:
            return True
        pool = &self._now[slots[0]]
        if units_of(pool) > ACCOUNT_MAX - left:
            self._fall_short(wish, number, part.quantity - left, 0, -1)
            return False
        pool.deficit += left
        pool.fixed = True
        self._fact.slot = slots[0]
        note(&self._fact, AT_DEFICIT, self._kept(wish), left)
        self._book(wish, slots[0], 0, left, left)
        return True

    cdef int32_t _kept(self, Wish *wish) noexcept nogil:
        """The account that a wish's units come to lie in."""
        return (AT_RESERVED if wish.state == RESERVED_STATE else AT_COMMITTED) + wish.channel

    cdef void _give(self, Wish *wish, int32_t slot, int64_t quantity) noexcept nogil:
        """A fact takes what a demand may."""
        cdef Pool *pool = &self._now[slot]
        cdef Quota *quota = &pool.quotas[wish.channel]
        cdef int64_t own = quantity if quantity < quota.free else quota.free
        quota.free -= own
        pool.shared -= quantity - own
        self._fact.slot = slot
        note(&self._fact, AT_FREE + wish.channel, self._kept(wish), own)
        note(&self._fact, AT_SHARED, self._kept(wish), quantity - own)
        self._book(wish, slot, own, quantity - own, 0)

    cdef int64_t _force(self, Wish *wish, int32_t slot, int64_t quantity) noexcept nogil:
        """A fact takes what there is; returns what is missing still."""
        cdef Pool *pool = &self._now[slot]
        cdef Quota *quota = &pool.quotas[wish.channel]
        cdef int64_t own = quota.free, left
        self._fact.slot = slot
        left = strip(pool, quantity, wish.channel, self._kept(wish), &self._fact)
        own -= quota.free
        # Demands before it in this plan left what the channel keeps; their bound is not seen now.
        pool.fixed = pool.fixed or (own > 0 and pool.rules[wish.channel].keeps > 0)
        self._book(wish, slot, own, quantity - left - own, 0)
        return left

    cdef void _book(
        self, Wish *wish, int32_t slot, int64_t own, int64_t borrowed, int64_t short
    ) noexcept nogil:
        """Units of a fact become what they become. The ceiling is spent as far as it goes, own
        units first; what it does not reach stands apart, and nothing of it comes back to it."""
        cdef Quota *quota = &self._now[slot].quotas[wish.channel]
        cdef int64_t units = own + borrowed, spent = 0, mine
        if wish.state == RESERVED_STATE:
            quota.reserved += units
        else:
            quota.committed += units
        if quota.ceiling_kind != CEILING_NONE:
            spent = units if units < quota.ceiling_left else quota.ceiling_left
            quota.ceiling_left -= spent
        mine = own if own < spent else spent
        self._told(wish, slot, quota.ceiling_number, mine, spent - mine, short != 0)
        own -= mine
        self._told(wish, slot, 0, own, units - spent - own, short != 0)

    cdef void _told(
        self, Wish *wish, int32_t slot, int64_t ceiling_number, int64_t own, int64_t borrowed,
        bint short
    ) noexcept nogil:
        """Adds to what a fact took of a pool under one ceiling, or under none."""
        cdef Take *taken = NULL
        cdef int i
        if own + borrowed == 0:
            return
        for i in range(wish.first_take, wish.first_take + wish.takes):
            if self._take[i].slot == slot and self._take[i].ceiling_number == ceiling_number:
                taken = &self._take[i]
        if taken == NULL:
            taken = &self._take[self._takes]
            taken.slot = slot
            taken.own = taken.borrowed = taken.short = 0
            taken.ceiling_number = ceiling_number
            self._takes += 1
            wish.takes += 1
        taken.own += own
        taken.borrowed += borrowed
        if short:
            taken.short += own + borrowed

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
            unceiled += borrowable(pool, wish.channel)
            if not pool.sells:
                continue
            safety += pool.safety
            for c in range(pool.channels):
                if c != wish.channel:
                    others += pool.quotas[c].free
            if not pool.rules[wish.channel].borrow:
                others += pool.shared - pool.held_borrowed
                safety += (pool.quotas[wish.channel].free + pool.held_borrowed
                           - borrowable(pool, wish.channel))
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

    def granted(self, int number):
        """True if the demand got something."""
        return self._wish[number].granted
