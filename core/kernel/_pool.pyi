class RowCorrupt(Exception):
    """A row of the store cannot be read; nothing was done with it."""

class LawBroken(Exception):
    """A plan would break conservation or a sign: a defect of the kernel; nothing was sent."""

class ChannelUnknown(Exception):
    """A row names a channel that this worker's policy does not have: the policy is out of date."""

class Shortage(Exception):
    """A decision asks for more units than there are to move; nothing was planned."""

    available: int
    def __init__(self, available: int) -> None: ...

class ChannelInUse(Exception):
    """A channel has units reserved or committed in a pool; nothing was planned."""
