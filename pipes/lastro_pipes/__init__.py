"""Pipes: saga steps as small services. Write a class with ``handle`` and ``compensate``; everything between two steps is
done here. See README.md, and PROTOCOL.md for what travels.

The import is called lastro_pipes because Python's own library had a module pipes until 3.12, which comes first.
"""

from lastro_pipes.errors import BrokerDown, Invalid, Misconfigured, Refuse, StoreDown
from lastro_pipes.message import Done, Message
from lastro_pipes.settings import Settings, from_environment
from lastro_pipes.step import Kind, Step

COMPENSABLE, PIVOT, RETRIABLE = Kind.COMPENSABLE, Kind.PIVOT, Kind.RETRIABLE

__all__ = [
    "COMPENSABLE",
    "PIVOT",
    "RETRIABLE",
    "BrokerDown",
    "Done",
    "Invalid",
    "Kind",
    "Message",
    "Misconfigured",
    "Refuse",
    "Settings",
    "Step",
    "StoreDown",
    "from_environment",
]
