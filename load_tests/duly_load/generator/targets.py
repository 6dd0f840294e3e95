"""The target for an address."""

from duly_load.generator.address import Address
from duly_load.generator.connection import Target
from duly_load.generator.duly import DulyTarget
from duly_load.generator.kserve import KserveTarget
from duly_load.generator.null import NullTarget


def target_of(address: Address) -> Target:
    """Not yet connected."""
    if address.protocol == "duly":
        return DulyTarget(address.endpoint)
    return KserveTarget(address) if address.protocol == "kserve" else NullTarget()
