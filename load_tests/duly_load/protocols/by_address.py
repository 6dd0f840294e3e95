"""The target for an address."""

from duly_load.protocols.address import Address
from duly_load.protocols.connection import Target
from duly_load.protocols.duly import DulyTarget
from duly_load.protocols.kserve import KserveTarget
from duly_load.protocols.null import NullTarget


def target_of(address: Address, difference_ns: int | None = None) -> Target:
    """The target for `address`, not yet connected. `difference_ns`: `unix_minus_monotonic_ns`; None: as it is now."""
    if address.protocol == "duly":
        return DulyTarget(address.endpoint, difference_ns, address.follow_advice)
    return KserveTarget(address) if address.protocol == "kserve" else NullTarget()
