"""Which rank runs on which host, and by which address hosts reach each other."""

import os
import re
import socket
from collections.abc import Sequence
from typing import NamedTuple

from ..errors import InputError
from ..extras import need
from ..parallel import cpu_count

HERE = 'localhost'
MEETING = 600.0  # seconds in which all hosts must have come


class Host(NamedTuple):
    """A machine, and how many ranks it takes."""

    name: str
    slots: int


class Place(NamedTuple):
    """Where a rank stands, in Horovod's words."""

    rank: int
    size: int
    hostname: str
    local_rank: int  # among the ranks of its host
    local_size: int
    cross_rank: int  # among the hosts that have such a local rank
    cross_size: int


def parse_hosts(text: str) -> list[Host]:
    """'a:2,b:2' -> hosts; InputError for any other text."""
    hosts = []
    for word in text.split(','):
        match = re.fullmatch(r'([\w.-]+):([1-9]\d{0,3})', word, re.ASCII)
        if not match or match.group(1).startswith('-'):  # which ssh would take for an option
            raise InputError(f'-H {text}: expected HOST:SLOTS,HOST:SLOTS,..., as in a:2,b:2')
        hosts.append(Host(match.group(1), int(match.group(2))))
    if len({host.name for host in hosts}) < len(hosts):
        raise InputError(f'-H {text}: a host is named twice')
    return hosts


def places_of(hosts: Sequence[Host], size: int) -> list[Place]:
    """The places of ranks 0..size-1, host after host; InputError for too few slots."""
    counts, left = [], size
    for host in hosts:
        counts.append(min(host.slots, left))
        left -= counts[-1]
    if left:
        slots = ','.join(f'{host.name}:{host.slots}' for host in hosts)
        raise InputError(f'-np {size}: -H {slots} has {size - left} slots')
    places: list[Place] = []
    for index, (host, count) in enumerate(zip(hosts, counts)):
        for local in range(count):
            before = sum(other > local for other in counts[:index])
            across = sum(other > local for other in counts)
            places.append(Place(len(places), size, host.name, local, count, before, across))
    return places


def environment(place: Place, address: str, port: int, interface: str) -> dict[str, str]:
    """What a rank's environment says beside the launcher's own.

    Parameters
    ----------
    address, port : of the rendezvous server
    interface : of the network that the ranks talk over
    """
    threads = max(1, cpu_count() // place.local_size)
    return {
        'OMP_NUM_THREADS': os.environ.get('OMP_NUM_THREADS', str(threads)),
        # a rank may wait long for another's verification or store, which is no stall
        'HOROVOD_STALL_CHECK_TIME_SECONDS': '3600',
        'HOROVOD_LOG_LEVEL': os.environ.get('HOROVOD_LOG_LEVEL', 'fatal'),
        'HOROVOD_CONTROLLER': 'gloo',
        'HOROVOD_CPU_OPERATIONS': 'gloo',
        # of 30 s where nothing is said; a rank starts after its launcher, which gives up first
        'HOROVOD_GLOO_TIMEOUT_SECONDS': f'{MEETING:.0f}',
        'HOROVOD_GLOO_IFACE': interface,
        'HOROVOD_GLOO_RENDEZVOUS_ADDR': address,
        'HOROVOD_GLOO_RENDEZVOUS_PORT': str(port),
        'HOROVOD_HOSTNAME': place.hostname,
        'HOROVOD_RANK': str(place.rank),
        'HOROVOD_SIZE': str(place.size),
        'HOROVOD_LOCAL_RANK': str(place.local_rank),
        'HOROVOD_LOCAL_SIZE': str(place.local_size),
        'HOROVOD_CROSS_RANK': str(place.cross_rank),
        'HOROVOD_CROSS_SIZE': str(place.cross_size),
    }


def own_address(other: str) -> str:
    """The address of this host that `other`, a name or address, sees; InputError if none does."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((other, 9))  # sends nothing
            return probe.getsockname()[0]
    except OSError as error:
        raise InputError(
            f'host {other}: {error.strerror}; if this is no name of the network, say with '
            "--address at which of this host's addresses the others find it"
        ) from None


def interface_of(address: str) -> str:
    """The network interface that has an address of this host; InputError if none has it."""
    for interface, addresses in need('psutil', 'dist').net_if_addrs().items():
        if any(each.address == address for each in addresses):
            return interface
    raise InputError(f'--address {address}: no network interface of this host has it')


def check_own_name(address: str) -> None:
    """InputError where this host's own name leads to itself alone: Horovod 0.28 takes the interface
    it is told for some of its connections, and the address of this name for the others.

    Parameters
    ----------
    address : that the other hosts know
    """
    name = socket.gethostname()
    try:
        found = socket.gethostbyname(name)
    except OSError:
        found = 'no address'
    if found == 'no address' or found.startswith('127.'):
        raise InputError(
            f"this host's name {name} leads to {found}, where other hosts do not find it; put the "
            f'line "{address} {name}" into /etc/hosts, before the one that says {found}'
        )
